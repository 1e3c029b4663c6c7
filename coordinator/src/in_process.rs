//! The services inside one process: the same gRPC, over pipes in memory instead of sockets.

use std::sync::Arc;

use avsweep_proto::MAX_MESSAGE_BYTES;
use avsweep_transport::{Transport, boxed};
use hyper_util::rt::TokioIo;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Endpoint, Uri};
use tower::{Layer as _, service_fn};

use crate::{Coordinator, RequestLayer};

/// Bytes that one direction of a connection holds before its writer waits.
const PIPE_BYTES: usize = 1 << 20;
/// Connections that may wait to be accepted.
const BACKLOG: usize = 16;

impl Coordinator {
    /// A way to this coordinator's services without a connection: requests are answered where they are made, in messages
    /// of gRPC all the same. For whoever brings a network of their own.
    pub async fn direct_transport(self: Arc<Self>) -> Transport {
        let requests = RequestLayer::new(Arc::clone(&self.metrics), usize::MAX);
        boxed(requests.layer(self.services(MAX_MESSAGE_BYTES).await.routes))
    }
}

/// The coordinator's services, served to this process alone.
#[derive(Debug)]
pub struct InProcessServer {
    connections: mpsc::Sender<DuplexStream>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl InProcessServer {
    /// Serves until the token is cancelled and every open connection has ended.
    pub async fn start(coordinator: Arc<Coordinator>, cancel: CancellationToken) -> Self {
        let (connections, incoming) = mpsc::channel::<DuplexStream>(BACKLOG);
        let incoming = tokio_stream::StreamExt::map(ReceiverStream::new(incoming), Ok::<_, std::io::Error>);
        let router = coordinator.router().await;
        let server = tokio::spawn(async move {
            router.serve_with_incoming_shutdown(incoming, cancel.cancelled_owned()).await
        });
        Self { connections, server }
    }

    /// A new connection, made when it is first used; clones of the transport share it.
    pub fn transport(&self) -> Transport {
        let connections = self.connections.clone();
        let connector = service_fn(move |_: Uri| {
            let connections = connections.clone();
            async move {
                let (client, server) = duplex(PIPE_BYTES);
                connections.send(server).await.map_err(|_| {
                    std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "the coordinator has stopped")
                })?;
                Ok::<_, std::io::Error>(TokioIo::new(client))
            }
        });
        boxed(Endpoint::from_static("http://in-process").connect_with_connector_lazy(connector))
    }

    /// Waits for the server's end; cancel its token and drop the channels first.
    ///
    /// # Errors
    /// When the server failed.
    ///
    /// # Panics
    /// When the server did.
    pub async fn finished(self) -> Result<(), tonic::transport::Error> {
        drop(self.connections);
        match self.server.await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
