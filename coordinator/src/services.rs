//! The gRPC edge: parse the request, call the use case, write the reply.

mod job;
mod reply;
mod status;
mod sweep;

use std::sync::Arc;

use avsweep_proto::v1::job_service_server::JobServiceServer;
use avsweep_proto::v1::sweep_service_server::SweepServiceServer;
use avsweep_proto::{FILE_DESCRIPTOR_SET, MAX_MESSAGE_BYTES};
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::transport::server::Router;

use crate::Coordinator;

impl Coordinator {
    /// The services with health and reflection, ready to be served: on a port, or in process
    /// ([`crate::InProcessServer`]).
    ///
    /// Messages may have up to [`MAX_MESSAGE_BYTES`]; compressed requests are understood.
    pub async fn router(self: Arc<Self>) -> Router {
        let jobs = JobServiceServer::new(job::JobEdge(Arc::clone(&self)))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
            .accept_compressed(CompressionEncoding::Gzip);
        let sweeps = SweepServiceServer::new(sweep::SweepEdge(self))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
            .accept_compressed(CompressionEncoding::Gzip);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<JobServiceServer<job::JobEdge>>().await;
        health.set_serving::<SweepServiceServer<sweep::SweepEdge>>().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .expect("descriptors that were compiled into the program can be decoded");
        Server::builder()
            .add_service(health_service)
            .add_service(reflection)
            .add_service(jobs)
            .add_service(sweeps)
    }
}
