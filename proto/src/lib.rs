//! The avsweep.v1 gRPC protocol: generated code and its conversions to and from domain types.
//!
//! Wire types stop here: what comes in is parsed into domain types at the border and never checked again.

mod convert;

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

/// Encoded `FileDescriptorSet` of the protocol, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Largest message that either side takes, in bytes: a sweep's definition with all its queries (some megabytes for ten
/// thousand of them, more than gRPC's usual limit of 4 MiB), or the responses of several jobs.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;
