//! The network: calls that are lost, late, doubled, or cut off with their process.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use avsweep_transport::{Transport, boxed};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use tokio::sync::{Notify, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tonic::Status;
use tonic::body::Body;
use tower::{Service, ServiceExt as _};

use crate::cluster::CALL_TIMEOUT;
use crate::world::{Fault, World};

/// A usual way, there or back.
const QUICK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));
/// A late one.
const SLOW: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));
/// When the second copy of a request comes.
const AGAIN_SOON: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(200));
const AGAIN_LATE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(40));
/// How often a duplicate is a late one.
const LATE_DUPLICATES: f64 = 0.5;
/// How often a broken call fails at once; else nothing is ever heard of it.
const NOTICED: f64 = 0.5;
/// How often a call goes to another coordinator than the one before, without need.
const WANDERS: f64 = 0.02;
/// How often the coordinator breaks a request off whose caller has gone.
const HANGS_UP: f64 = 0.5;

/// The coordinators that can be reached.
#[derive(Debug)]
pub(crate) struct Network {
    world: Arc<World>,
    coordinators: Vec<Mutex<Option<Serving>>>,
    /// Requests that nobody waits for and that have not arrived.
    astray: AtomicUsize,
}

#[derive(Debug)]
struct Serving {
    services: Transport,
    /// Dropped with the coordinator: what it was doing ends where it waits.
    requests: JoinSet<()>,
}

/// A machine, as the network sees it.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    frozen: AtomicBool,
    /// Wakes in the order of waiting, which a watch channel does not.
    thaw: Notify,
    cut_until: Mutex<Option<Instant>>,
    /// Nothing ever happens to its calls.
    spared: bool,
}

/// A request that can be sent more than once.
#[derive(Clone, Debug)]
struct Letter {
    parts: http::request::Parts,
    body: Bytes,
}

/// One host's way to the coordinators.
#[derive(Clone, Debug)]
struct Link {
    network: Arc<Network>,
    host: Arc<Host>,
    current: Arc<AtomicUsize>,
}

/// A request under way at a coordinator.
struct Sent {
    answer: oneshot::Receiver<Response<Body>>,
    request: AbortHandle,
    hangs_up: bool,
}

impl Drop for Sent {
    fn drop(&mut self) {
        if self.hangs_up {
            self.request.abort();
        }
    }
}

impl Host {
    pub(crate) fn new(name: String, spared: bool) -> Arc<Self> {
        Arc::new(Self {
            name,
            frozen: AtomicBool::new(false),
            thaw: Notify::new(),
            cut_until: Mutex::new(None),
            spared,
        })
    }

    /// Stops or continues whatever waits for [`Host::thawed`].
    pub(crate) fn freeze(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Relaxed);
        if !frozen {
            self.thaw.notify_waiters();
        }
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    /// Ends when the host is not frozen.
    pub(crate) async fn thawed(&self) {
        // One thread: nothing comes between the look and the wait.
        while self.is_frozen() {
            self.thaw.notified().await;
        }
    }

    fn cut(&self) -> MutexGuard<'_, Option<Instant>> {
        self.cut_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn cut_off(&self, until: Option<Instant>) {
        *self.cut() = until;
    }

    fn is_cut_off(&self) -> bool {
        self.cut().is_some_and(|until| Instant::now() < until)
    }
}

impl Network {
    pub(crate) fn new(world: Arc<World>, coordinators: usize) -> Arc<Self> {
        let coordinators = (0..coordinators).map(|_| Mutex::new(None)).collect();
        Arc::new(Self { world, coordinators, astray: AtomicUsize::new(0) })
    }

    fn slot(&self, index: usize) -> MutexGuard<'_, Option<Serving>> {
        self.coordinators[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A coordinator can be reached.
    pub(crate) fn up(&self, index: usize, services: Transport) {
        *self.slot(index) = Some(Serving { services, requests: JoinSet::new() });
    }

    /// It cannot any more, and what it was answering breaks off.
    pub(crate) fn down(&self, index: usize) {
        let gone = self.slot(index).take();
        // Outside the lock: dropping a request may make calls.
        drop(gone);
    }

    /// Sends a request to a coordinator; `None` when it is down.
    fn send(&self, index: usize, letter: &Letter, hangs_up: bool) -> Option<Sent> {
        let mut slot = self.slot(index);
        let serving = slot.as_mut()?;
        while serving.requests.try_join_next().is_some() {}
        let (reply, answer) = oneshot::channel();
        let (services, letter) = (serving.services.clone(), letter.clone());
        let request = serving.requests.spawn(async move {
            let Ok(answer) = services.oneshot(letter.request()).await else { return };
            let (parts, body) = answer.into_parts();
            // The whole answer, so that it arrives or is lost as one.
            let Ok(body) = body.collect().await else { return };
            // Nobody listens when the caller has gone or this is a second copy.
            let _ = reply.send(Response::from_parts(parts, Body::new(body)));
        });
        Some(Sent { answer, request, hangs_up })
    }

    /// Requests that nobody waits for and that are still to arrive.
    pub(crate) fn astray(&self) -> usize {
        self.astray.load(Ordering::Relaxed)
    }

    /// Makes a transport for a host.
    pub(crate) fn transport(self: &Arc<Self>, host: &Arc<Host>) -> Transport {
        let first = self.world.below(self.coordinators.len() as u64) as usize;
        boxed(Link {
            network: Arc::clone(self),
            host: Arc::clone(host),
            current: Arc::new(AtomicUsize::new(first)),
        })
    }
}

impl Letter {
    async fn read(request: Request<Body>) -> Result<Self, Status> {
        let (parts, body) = request.into_parts();
        Ok(Self { parts, body: body.collect().await?.to_bytes() })
    }

    fn request(&self) -> Request<Body> {
        Request::from_parts(self.parts.clone(), Body::new(Full::new(self.body.clone())))
    }

    fn method(&self) -> &str {
        self.parts.uri.path().rsplit('/').next().unwrap_or_default()
    }
}

impl Link {
    async fn call(self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let world = &self.network.world;
        let letter = Letter::read(request).await?;
        self.host.thawed().await;
        let way = self.way();
        if way >= CALL_TIMEOUT {
            // The caller has given up when it arrives.
            self.arrives(letter, way, "late");
            return std::future::pending().await;
        }
        sleep(way).await;
        let weather = world.weather();
        if self.host.is_cut_off() {
            return self.silence().await;
        }
        if !self.host.spared && world.chance(weather.lose_request) {
            self.note(Fault::RequestLost, &letter);
            return self.silence().await;
        }
        let hangs_up = world.chance(HANGS_UP);
        let Some(mut sent) = self.reach(&letter, hangs_up) else {
            return Err(Status::unavailable("no coordinator can be reached"));
        };
        if !self.host.spared && world.chance(weather.duplicate) {
            self.duplicate(letter.clone());
        }
        let answer = (&mut sent.answer).await;
        sent.hangs_up = false;
        let Ok(answer) = answer else {
            return Err(Status::unavailable("the connection broke"));
        };
        if self.host.is_cut_off() {
            return self.silence().await;
        }
        if !self.host.spared && world.chance(world.weather().lose_reply) {
            self.note(Fault::ReplyLost, &letter);
            return self.silence().await;
        }
        sleep(self.way()).await;
        self.host.thawed().await;
        Ok(answer)
    }

    fn note(&self, fault: Fault, letter: &Letter) {
        self.network.world.count(fault);
        self.network.world.log(format_args!("{}: {} {fault}", self.host.name, letter.method()));
    }

    /// The time that one way takes.
    fn way(&self) -> Duration {
        let world = &self.network.world;
        let late = !self.host.spared && world.chance(world.weather().delay);
        if late {
            world.count(Fault::CallDelayed);
        }
        let (shortest, longest) = if late { SLOW } else { QUICK };
        world.between(shortest, longest)
    }

    /// A call that comes to nothing: an error now, or no answer ever.
    async fn silence(&self) -> Result<Response<Body>, Status> {
        if self.network.world.chance(NOTICED) {
            self.host.thawed().await;
            return Err(Status::unavailable("the connection broke"));
        }
        std::future::pending().await
    }

    /// Sends to the coordinator of the last call, or to another when that one is down.
    fn reach(&self, letter: &Letter, hangs_up: bool) -> Option<Sent> {
        let count = self.network.coordinators.len();
        let mut first = self.current.load(Ordering::Relaxed);
        if self.network.world.chance(WANDERS) {
            first += 1;
        }
        (first..first + count).map(|index| index % count).find_map(|index| {
            let sent = self.network.send(index, letter, hangs_up)?;
            self.current.store(index, Ordering::Relaxed);
            Some(sent)
        })
    }

    /// Sends the request once more, later.
    fn duplicate(&self, letter: Letter) {
        let world = &self.network.world;
        let late = world.chance(LATE_DUPLICATES);
        let (shortest, longest) = if late { AGAIN_LATE } else { AGAIN_SOON };
        let pause = world.between(shortest, longest);
        self.note(if late { Fault::CallDuplicatedLate } else { Fault::CallDuplicated }, &letter);
        self.arrives(letter, pause, "a second time");
    }

    /// Lets a request arrive after a time, whose answer goes nowhere.
    fn arrives(&self, letter: Letter, pause: Duration, how: &'static str) {
        let link = self.clone();
        link.network.astray.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            sleep(pause).await;
            let world = &link.network.world;
            world.log(format_args!("{}: {} arrives {how}", link.host.name, letter.method()));
            drop(link.reach(&letter, false));
            link.network.astray.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

impl Service<Request<Body>> for Link {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(Self::call(self.clone(), request))
    }
}
