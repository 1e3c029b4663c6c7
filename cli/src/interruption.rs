//! Ctrl-C and SIGTERM: the first asks for a clean stop, a later one ends the process at once.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// Signals that come together are one: a job manager tells a process and its group.
const TOGETHER: Duration = Duration::from_millis(500);

/// What asked for the stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM: a manager of processes wants the place back.
    Terminate,
}

impl Signal {
    /// What shells say of a process that this signal ended.
    fn exit_code(self) -> i32 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// A stop that was or will be asked for.
#[derive(Debug, Clone)]
pub(crate) struct Interruption {
    asked: CancellationToken,
    first: Arc<OnceLock<Signal>>,
}

impl Interruption {
    /// Cancelled at the first signal.
    pub(crate) fn token(&self) -> CancellationToken {
        self.asked.clone()
    }

    /// The first signal, once there was one.
    pub(crate) fn signal(&self) -> Option<Signal> {
        self.first.get().copied()
    }
}

/// Listens from now to the end of the process.
///
/// Whatever the process is doing when the second signal comes, it ends: everything acknowledged is stored.
pub(crate) fn listen() -> Interruption {
    let interruption = Interruption { asked: CancellationToken::new(), first: Arc::default() };
    let told = interruption.clone();
    // Made here and not in the task: a signal between now and the task's first step is not lost.
    let mut signals = Signals::new();
    tokio::spawn(async move {
        let _ = told.first.set(signals.next().await);
        told.asked.cancel();
        let first = Instant::now();
        loop {
            let signal = signals.next().await;
            if first.elapsed() >= TOGETHER {
                std::process::exit(signal.exit_code());
            }
        }
    });
    interruption
}

#[cfg(unix)]
struct Signals {
    interrupt: Option<tokio::signal::unix::Signal>,
    terminate: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| match signal(kind) {
            Ok(signal) => Some(signal),
            Err(error) => {
                tracing::warn!(%error, "a signal cannot be listened for: it ends the process at once");
                None
            }
        };
        Self { interrupt: listen(SignalKind::interrupt()), terminate: listen(SignalKind::terminate()) }
    }

    async fn next(&mut self) -> Signal {
        async fn received(signal: Option<&mut tokio::signal::unix::Signal>) {
            if let Some(signal) = signal
                && signal.recv().await.is_some()
            {
                return;
            }
            std::future::pending::<()>().await;
        }
        tokio::select! {
            () = received(self.interrupt.as_mut()) => Signal::Interrupt,
            () = received(self.terminate.as_mut()) => Signal::Terminate,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Self {
        Self
    }

    async fn next(&mut self) -> Signal {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Signal::Interrupt
    }
}
