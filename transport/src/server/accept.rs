//! The accept loop: nothing that a peer does ends it, and no peer makes another wait.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::connection::Io;
use super::{Connection, Counter, ListenOptions};

/// Pause after an accept that failed for want of something (files, memory): trying at once would only burn time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A peer that vanished without a word is noticed after this long, plus a few probes.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long, and for how many reads of a kibibyte, a peer whose handshake failed is heard.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_READS: usize = 64;

/// First byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// How connections are accepted.
pub(super) struct Accept {
    tls: Option<TlsAcceptor>,
    permits: Arc<Semaphore>,
    handshake_timeout: Duration,
    failed: Counter,
    address: SocketAddr,
}

impl std::fmt::Debug for Accept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accept").field("address", &self.address).field("tls", &self.tls.is_some()).finish()
    }
}

impl Accept {
    pub(super) fn new(tls: Option<TlsAcceptor>, options: &ListenOptions, address: SocketAddr) -> Self {
        let permits = Arc::new(Semaphore::new(options.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
        let handshake_timeout = options.handshake_timeout;
        Self { tls, permits, handshake_timeout, failed: Counter::default(), address }
    }

    pub(super) fn failed(&self) -> Counter {
        self.failed.clone()
    }

    /// Accepts until nobody wants connections any more.
    pub(super) async fn run(self, socket: TcpListener, ready: mpsc::Sender<Connection>) {
        let accept = Arc::new(self);
        loop {
            let next = async {
                // Taken before accepting: what is over the limit waits in the system's queue, not in here.
                let permit = Arc::clone(&accept.permits).acquire_owned().await.ok()?;
                Some((socket.accept().await, permit))
            };
            let next = tokio::select! {
                next = next => next,
                () = ready.closed() => return,
            };
            match next {
                None => return,
                Some((Ok((stream, peer)), permit)) => {
                    let accept = Arc::clone(&accept);
                    let ready = ready.clone();
                    tokio::spawn(async move { accept.welcome(stream, peer, permit, ready).await });
                }
                Some((Err(error), _)) => {
                    // A peer that went away before it was its turn is everyday business; the rest is not.
                    if !matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                    ) {
                        tracing::warn!(address = %accept.address, %error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }

    async fn welcome(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
        ready: mpsc::Sender<Connection>,
    ) {
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%peer, %error, "socket options could not be set");
        }
        let handshake = timeout(self.handshake_timeout, self.handshake(stream));
        let (problem, stream) = tokio::select! {
            result = handshake => match result {
                Ok(Ok(io)) => {
                    let connection = Connection::new(io, peer, self.address, self.handshake_timeout, permit);
                    // An error means that the server has stopped: the connection ends with it.
                    let _ = ready.send(connection).await;
                    return;
                }
                Ok(Err((error, stream))) => (error.to_string(), stream),
                Err(_) => (format!("not done within {} s", self.handshake_timeout.as_secs_f64()), None),
            },
            () = ready.closed() => return,
        };
        self.failed.add_one();
        tracing::debug!(%peer, address = %self.address, problem, "a connection failed before its first request");
        if let Some(stream) = stream {
            let _ = timeout(LINGER, part(stream)).await;
        }
    }

    async fn handshake(&self, stream: TcpStream) -> Result<Io, (io::Error, Option<TcpStream>)> {
        if let Some(acceptor) = &self.tls {
            return match acceptor.accept(stream).into_fallible().await {
                Ok(stream) => Ok(Io::Tls(Box::new(stream))),
                Err((error, stream)) => Err((error, Some(stream))),
            };
        }
        plain(stream).await.map_err(|error| (error, None))
    }
}

async fn plain(stream: TcpStream) -> io::Result<Io> {
    // TLS to a plain port would otherwise end as some riddle of HTTP's.
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer said nothing")),
        _ if first[0] == TLS_HANDSHAKE => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the peer speaks TLS, and this port does not"))
        }
        _ => Ok(Io::Plain(stream)),
    }
}

/// Hangs up on a peer whose handshake failed, reading on for a moment: with anything of the peer's unread, the system
/// would throw away the alert that tells the peer what was wrong.
async fn part(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    for _ in 0..LINGER_READS {
        if stream.read(&mut rest).await? == 0 {
            break;
        }
    }
    Ok(())
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
