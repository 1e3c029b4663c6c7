//! The cluster's processes: coordinator, worker and judge, each until it is told to stop.

mod coordinator;
mod ending;
mod judge;
mod worker;

pub(crate) use coordinator::coordinator;
pub(crate) use judge::judge;
pub(crate) use worker::worker;

/// This machine's name, for the names of workers.
fn host() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let named = kernel.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    match named.trim() {
        "" => "localhost".to_owned(),
        named => named.to_owned(),
    }
}

/// A name that no other worker or judge has: host, process, and something random, since containers repeat the first
/// two.
fn unique_name(kind: &str) -> String {
    format!("{kind}-{}-{}-{:04x}", host(), std::process::id(), rand::random::<u16>())
}
