//! The gRPC edge: parse the request, call the use case, write the reply.

mod job;
mod reply;
mod requests;
mod status;
mod sweep;

use std::sync::Arc;

use avsweep_proto::v1::job_service_server::JobServiceServer;
use avsweep_proto::v1::sweep_service_server::SweepServiceServer;
use avsweep_proto::{FILE_DESCRIPTOR_SET, MAX_MESSAGE_BYTES};
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::layer::util::{Identity, Stack};

use crate::Coordinator;

pub use requests::{RequestLayer, RequestService};

/// The services whose health is told; the empty name is the whole server.
const HEALTH_NAMES: [&str; 3] = ["", "avsweep.v1.JobService", "avsweep.v1.SweepService"];

/// All services of a coordinator, and the switch of their health.
pub(crate) struct Services {
    pub(crate) routes: Routes,
    pub(crate) health: Health,
}

/// What the health service tells.
#[derive(Clone, Debug)]
pub(crate) struct Health(HealthReporter);

impl Health {
    async fn serving(&self) {
        for name in HEALTH_NAMES {
            self.0.set_service_status(name, ServingStatus::Serving).await;
        }
    }

    /// From now on the server is not to be sent anything new.
    pub(crate) async fn not_serving(&self) {
        for name in HEALTH_NAMES {
            self.0.set_service_status(name, ServingStatus::NotServing).await;
        }
    }
}

impl Coordinator {
    /// The services for peers who need no token and no limit: this process ([`crate::InProcessServer`]), or a bench's
    /// own. Others are served by [`crate::serve()`].
    pub async fn router(self: Arc<Self>) -> Router<Stack<RequestLayer, Identity>> {
        let requests = RequestLayer::new(Arc::clone(&self.metrics), usize::MAX);
        let services = self.services(MAX_MESSAGE_BYTES).await;
        Server::builder().layer(requests).add_routes(services.routes)
    }

    /// The services with health and reflection. Messages may have up to `max_message` bytes; compressed requests are
    /// understood.
    pub(crate) async fn services(self: Arc<Self>, max_message: usize) -> Services {
        let jobs = JobServiceServer::new(job::JobEdge(Arc::clone(&self)))
            .max_decoding_message_size(max_message)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
            .accept_compressed(CompressionEncoding::Gzip);
        let sweeps = SweepServiceServer::new(sweep::SweepEdge(self))
            .max_decoding_message_size(max_message)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
            .accept_compressed(CompressionEncoding::Gzip);
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let health = Health(reporter);
        health.serving().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .expect("descriptors that were compiled into the program can be decoded");
        let mut routes = Routes::builder();
        routes.add_service(health_service).add_service(reflection).add_service(jobs).add_service(sweeps);
        Services { routes: routes.routes(), health }
    }
}
