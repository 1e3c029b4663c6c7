//! The network between one client (a worker or judge) and the coordinators, and what goes wrong in it.
//!
//! A [`Network`] has a port per coordinator. It takes gRPC requests off the client's connection, passes each on, whole,
//! and gives the answer back. On the way it delays, sends a request a second time (as a client does that never saw the
//! first answer), loses an answer (the coordinator has acted, the connection breaks), and cuts connections.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result};
use avsweep_proto::v1;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::service::Routes;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server};
use tower::ServiceExt as _;

/// Bytes of a gRPC message's prefix: compressed or not, and the length.
const PREFIX: usize = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const REPORT: &str = "/avsweep.v1.JobService/Report";

/// How often what goes wrong, in percent of the requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mischief {
    /// The longest delay of a request, and of its answer.
    pub(crate) delay: Duration,
    /// Requests that are sent twice.
    pub(crate) duplicated: u32,
    /// Requests whose answer is lost with the connection.
    pub(crate) unanswered: u32,
}

impl Mischief {
    /// Everything arrives, once, at once.
    pub(crate) const NONE: Self = Self { delay: Duration::ZERO, duplicated: 0, unanswered: 0 };
}

/// What has happened so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) duplicated: AtomicU64,
    pub(crate) unanswered: AtomicU64,
    pub(crate) cut: AtomicU64,
    /// Reports that wait in the network; see [`Network::hold_reports`].
    pub(crate) held_up: AtomicU64,
    /// Reports that the coordinator took.
    pub(crate) taken: AtomicU64,
    /// Reports that the coordinator refused because their lease was lost.
    pub(crate) late: AtomicU64,
}

impl Counters {
    /// One of them.
    pub(crate) fn read(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The network of one client. It ends when dropped.
#[derive(Debug)]
pub(crate) struct Network {
    weather: Arc<Weather>,
    urls: Vec<String>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Weather {
    whims: Mutex<ChaCha8Rng>,
    mischief: Mutex<Mischief>,
    /// Nothing gets through until then.
    parted_until: Mutex<Option<Instant>>,
    /// Cancelled when all connections are cut; each has a child of it.
    connections: Mutex<CancellationToken>,
    reports_held: watch::Sender<bool>,
    counters: Counters,
}

/// What happens to one request.
#[derive(Clone, Copy, Debug)]
struct Whim {
    before: Duration,
    after: Duration,
    twice: bool,
    /// Of two answers the client sees the second.
    second_counts: bool,
    unanswered: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    /// Opens a port per coordinator.
    pub(crate) async fn open(seed: u64, coordinators: &[SocketAddr]) -> Result<Self> {
        let weather = Arc::new(Weather {
            whims: Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
            mischief: Mutex::new(Mischief::NONE),
            parted_until: Mutex::new(None),
            connections: Mutex::new(CancellationToken::new()),
            reports_held: watch::Sender::new(false),
            counters: Counters::default(),
        });
        let mut tasks = JoinSet::new();
        let mut urls = Vec::new();
        for coordinator in coordinators {
            let listener = TcpListener::bind("127.0.0.1:0").await.context("a port for the network")?;
            urls.push(format!("http://{}", listener.local_addr()?));
            let (wires, incoming) = mpsc::channel::<io::Result<Wire>>(16);
            tasks.spawn(accept(listener, *coordinator, Arc::clone(&weather), wires));
            let channel = Endpoint::from_shared(format!("http://{coordinator}"))?
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .connect_lazy();
            let link = Link { channel, weather: Arc::clone(&weather) };
            let routes = Routes::from(axum::Router::new().fallback(carry).with_state(link));
            let server =
                Server::builder().add_routes(routes).serve_with_incoming(ReceiverStream::new(incoming));
            tasks.spawn(async move {
                if let Err(error) = server.await {
                    panic!("the network between the processes failed: {error}");
                }
            });
        }
        Ok(Self { weather, urls, _tasks: tasks })
    }

    /// Where the client finds the coordinators.
    pub(crate) fn urls(&self) -> &[String] {
        &self.urls
    }

    /// What has happened so far.
    pub(crate) fn counters(&self) -> &Counters {
        &self.weather.counters
    }

    /// From now on.
    pub(crate) fn set_mischief(&self, mischief: Mischief) {
        *lock(&self.weather.mischief) = mischief;
    }

    /// Requests and answers take up to so long from now on.
    pub(crate) fn slow(&self, delay: Duration) {
        lock(&self.weather.mischief).delay = delay;
    }

    /// Cuts every open connection.
    pub(crate) fn cut(&self) {
        Counters::add(&self.weather.counters.cut);
        std::mem::take(&mut *lock(&self.weather.connections)).cancel();
    }

    /// Cuts every open connection and lets none through for a while.
    pub(crate) fn part(&self, duration: Duration) {
        *lock(&self.weather.parted_until) = Some(Instant::now() + duration);
        self.cut();
    }

    /// Keeps every report that arrives from now on until this is called with `false`.
    pub(crate) fn hold_reports(&self, hold: bool) {
        self.weather.reports_held.send_replace(hold);
    }
}

impl Weather {
    fn whim(&self) -> Whim {
        let mischief = *lock(&self.mischief);
        let mut whims = lock(&self.whims);
        let longest = mischief.delay.as_micros() as u64;
        let mut delay = || Duration::from_micros(whims.random_range(0..=longest));
        let (before, after) = (delay(), delay());
        let mut happens = |percent: u32| whims.random_range(0..100) < percent;
        Whim {
            before,
            after,
            twice: happens(mischief.duplicated),
            second_counts: happens(50),
            unanswered: happens(mischief.unanswered),
        }
    }

    fn parted(&self) -> bool {
        lock(&self.parted_until).is_some_and(|until| Instant::now() < until)
    }
}

async fn accept(
    listener: TcpListener,
    coordinator: SocketAddr,
    weather: Arc<Weather>,
    wires: mpsc::Sender<io::Result<Wire>>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        // A connection to a coordinator that is not there is closed at once, as a load balancer does.
        let there = timeout(CONNECT_TIMEOUT, TcpStream::connect(coordinator)).await;
        if weather.parted() || !matches!(there, Ok(Ok(_))) {
            continue;
        }
        // Without it small answers wait for each other; that it fails is no harm.
        let _ = stream.set_nodelay(true);
        let token = lock(&weather.connections).child_token();
        if wires.send(Ok(Wire::new(stream, token))).await.is_err() {
            return;
        }
    }
}

/// The way to one coordinator.
#[derive(Clone, Debug)]
struct Link {
    channel: Channel,
    weather: Arc<Weather>,
}

/// Ends a client's connection.
#[derive(Clone, Debug)]
struct Cut(CancellationToken);

/// A whole answer.
struct Answer {
    head: http::response::Parts,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

async fn carry(State(link): State<Link>, request: Request) -> Response {
    let cut = request.extensions().get::<Cut>().cloned();
    let weather = Arc::clone(&link.weather);
    match link.pass_on(request).await {
        Ok(answer) => answer,
        // As when the coordinator itself breaks the connection.
        Err(_) => {
            Counters::add(&weather.counters.cut);
            if let Some(Cut(connection)) = cut {
                connection.cancel();
            }
            std::future::pending().await
        }
    }
}

impl Link {
    /// An error breaks the client's connection.
    async fn pass_on(self, request: Request) -> Result<Response> {
        let counters = &self.weather.counters;
        Counters::add(&counters.requests);
        let whim = self.weather.whim();
        let (mut head, body) = request.into_parts();
        head.extensions.clear();
        let is_report = head.uri.path() == REPORT;
        // Every call of the lease protocol has one request message.
        let body = body.collect().await?.to_bytes();
        sleep(whim.before).await;
        if is_report && *self.weather.reports_held.borrow() {
            Counters::add(&counters.held_up);
            self.weather.reports_held.subscribe().wait_for(|held| !held).await?;
        }
        let send = || self.send(head.clone(), body.clone(), is_report);
        let mut answer = send().await?;
        if whim.twice {
            Counters::add(&counters.duplicated);
            let second = send().await?;
            if whim.second_counts {
                answer = second;
            }
        }
        sleep(whim.after).await;
        if whim.unanswered {
            Counters::add(&counters.unanswered);
            anyhow::bail!("the answer is lost");
        }
        let body = Full::new(answer.body).with_trailers(async move { answer.trailers.map(Ok) });
        Ok(Response::from_parts(answer.head, Body::new(body)))
    }

    async fn send(&self, head: http::request::Parts, body: Bytes, is_report: bool) -> Result<Answer> {
        let request = http::Request::from_parts(head, tonic::body::Body::new(Full::new(body)));
        let (head, body) = self.channel.clone().oneshot(request).await?.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned();
        let body = body.to_bytes();
        if is_report && let Some(message) = body.get(PREFIX..) {
            match v1::ReportResponse::decode(message).context("an answer to a report")?.status() {
                v1::LeaseStatus::Held => Counters::add(&self.weather.counters.taken),
                v1::LeaseStatus::Lost => Counters::add(&self.weather.counters.late),
                v1::LeaseStatus::Unspecified => anyhow::bail!("a report was answered without a status"),
            }
        }
        Ok(Answer { head, body, trailers })
    }
}

/// A client's connection, which can be cut.
#[derive(Debug)]
struct Wire {
    stream: TcpStream,
    token: CancellationToken,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Wire {
    fn new(stream: TcpStream, token: CancellationToken) -> Self {
        let cut = Box::pin(token.clone().cancelled_owned());
        Self { stream, token, cut }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl Connected for Wire {
    type ConnectInfo = Cut;

    fn connect_info(&self) -> Cut {
        Cut(self.token.clone())
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
