//! Ctrl-C and SIGTERM: the first asks for a clean stop, a later one ends the process at once.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// Signals that come together are one: a job manager tells a process and its group.
const TOGETHER: Duration = Duration::from_millis(500);

/// Listens from now to the end of the process; the token is cancelled at the first signal.
///
/// Whatever the process is doing when the second comes, it ends: everything acknowledged is stored.
pub(crate) fn listen() -> CancellationToken {
    let asked = CancellationToken::new();
    let token = asked.clone();
    tokio::spawn(async move {
        signal().await;
        token.cancel();
        let first = Instant::now();
        loop {
            signal().await;
            if first.elapsed() >= TOGETHER {
                std::process::exit(130);
            }
        }
    });
    asked
}

async fn signal() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = interrupt.await;
}
