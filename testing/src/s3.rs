//! An S3 server over a temporary folder.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use hyper::body::Incoming;
use hyper::service::{Service as HttpService, service_fn};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The access key that the server knows.
pub const KEY: &str = "AKIDEXAMPLE";
/// Its secret.
pub const SECRET: &str = "hunter2-hunter2-hunter2";

/// One request that the server got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `GET`, `HEAD`.
    pub method: String,
    /// With the bucket.
    pub path: String,
    /// The `range` header.
    pub range: Option<String>,
}

/// A running S3 server with one bucket, `models`.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    folder: TempDir,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// On a port of its own; within the caller's runtime.
    ///
    /// # Errors
    /// When there is no folder or port to be had.
    pub async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("models"))?;
        let files = s3s_fs::FileSystem::new(folder.path())
            .map_err(|error| anyhow::anyhow!("no file system: {error:?}"))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let noted = Arc::clone(&seen);
        let root = folder.path().to_owned();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (service, noted, root) = (service.clone(), Arc::clone(&noted), root.clone());
                let service = service_fn(move |request: http::Request<Incoming>| {
                    let range = request.headers().get("range").and_then(|value| value.to_str().ok());
                    let seen = Seen {
                        method: request.method().to_string(),
                        path: request.uri().path().to_owned(),
                        range: range.map(str::to_owned),
                    };
                    // S3 knows no folders; this server would look one up as if it were an object.
                    let folder = seen.method == "HEAD" && root.join(seen.path.trim_matches('/')).is_dir();
                    noted.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
                    let answer = (!folder).then(|| HttpService::call(&service, request));
                    async move {
                        match answer {
                            Some(answer) => answer.await,
                            None => {
                                let mut answer = http::Response::new(s3s::Body::empty());
                                *answer.status_mut() = http::StatusCode::NOT_FOUND;
                                Ok(answer)
                            }
                        }
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Ok(Self { address, folder, seen, task })
    }

    /// Puts an object there, or another in its place.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, key: &str, content: &[u8]) -> Result<()> {
        let path = self.folder.path().join("models").join(key);
        std::fs::create_dir_all(path.parent().context("a key is a path")?)?;
        std::fs::write(path, content)?;
        Ok(())
    }

    /// Takes an object away.
    ///
    /// # Errors
    /// When there is none.
    pub fn delete(&self, key: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.folder.path().join("models").join(key))?)
    }

    /// Downloads so far: requests for contents, not for listings.
    pub fn downloads(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter()
            .filter(|seen| seen.method == "GET" && seen.path.trim_matches('/') != "models")
            .cloned()
            .collect()
    }

    /// Takes no connection any more.
    pub fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Variables for a store at `address`.
pub fn variables(address: SocketAddr) -> Vec<(String, String)> {
    [
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", &format!("http://{address}")),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_READ_TIMEOUT", "2s"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}
