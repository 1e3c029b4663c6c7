//! The avsweep.v1 gRPC protocol: generated code and its conversions to and from domain types.
//!
//! Wire types stop here: what comes in is parsed into domain types at the border and never checked again.

mod convert;
mod error_code;

/// Generated code of the `avsweep.v1` package.
pub mod v1 {
    #![expect(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        clippy::allow_attributes,
        reason = "generated code"
    )]
    tonic::include_proto!("avsweep.v1");
}

pub use convert::{ConvertError, WireEnum, fingerprint, lease_token, required};
pub use error_code::{ErrorCode, UnknownErrorCode};

/// Paths of all methods of the protocol (`/avsweep.v1.JobService/Lease`), as HTTP sees them.
///
/// What a peer sends as a path is anything; only these are fit to be counted by name.
pub fn method_paths() -> &'static [&'static str] {
    METHOD_PATHS
}

const METHOD_PATHS: &[&str] = &[
    "/avsweep.v1.JobService/Lease",
    "/avsweep.v1.JobService/Renew",
    "/avsweep.v1.JobService/Report",
    "/avsweep.v1.JobService/Release",
    "/avsweep.v1.JobService/Fail",
    "/avsweep.v1.JobService/ReportStatus",
    "/avsweep.v1.JobService/GetDefinition",
    "/avsweep.v1.SweepService/CreateSweep",
    "/avsweep.v1.SweepService/ListSweeps",
    "/avsweep.v1.SweepService/GetSweep",
    "/avsweep.v1.SweepService/WatchSweep",
    "/avsweep.v1.SweepService/SetSweepState",
    "/avsweep.v1.SweepService/ReadTallies",
    "/avsweep.v1.SweepService/ReadResults",
    "/avsweep.v1.SweepService/BestPoints",
    "/avsweep.v1.SweepService/Convergence",
    "/avsweep.v1.SweepService/Agreement",
    "/avsweep.v1.SweepService/RequestSample",
    "/avsweep.v1.SweepService/ListJobs",
    "/avsweep.v1.SweepService/RetryJobs",
    "/avsweep.v1.SweepService/SetSweepPriority",
    "/avsweep.v1.SweepService/DeleteSweep",
    "/avsweep.v1.SweepService/ListWorkers",
];

/// Encoded `FileDescriptorSet` of the protocol, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Largest message that either side takes, in bytes: a sweep's definition with all its queries (some megabytes for ten
/// thousand of them, more than gRPC's usual limit of 4 MiB), or the responses of several jobs.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn the_method_paths_are_those_of_the_descriptors() {
        let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("compiled descriptors");
        let paths = set.file.iter().flat_map(|file| {
            file.service.iter().flat_map(|service| {
                service
                    .method
                    .iter()
                    .map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name()))
            })
        });
        assert_eq!(paths.collect::<Vec<_>>(), METHOD_PATHS);
    }
}
