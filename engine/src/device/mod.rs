//! The decoder over candle tensors: what computes on CUDA devices, and on candle's CPU device for comparison.
//!
//! The same model, plans and results as the CPU decoder's (`crate::decoder`), with other means:
//!
//! - `merge`: every tensor of a point is one pass over base and vectors, in one kernel on CUDA (`cuda`, `kernels.cu`).
//! - `weights`: the merged weights, and which of base and vectors stay in the device's memory.
//! - `forward`, `attention`, `rotary`: a packed forest's rows pass the matrix products without padding; only
//!   attention works on padded groups of segments.
//! - `memory`: what passes and sequences take.
//! - `score`, `generate`, `store`: log-probabilities of references; continuous batching over a preallocated cache.
//!
//! `slow` runs decoders that the engine does not compute itself, by candle-transformers, on the same devices.
//!
//! Matrix products choose their kernels by shape, so that a result depends on its batch within rounding. Batches are
//! a function of the job and the model; where memory is short, they are halved until they fit.

mod attention;
mod choice;
#[cfg(feature = "cuda")]
mod cuda;
mod forward;
mod generate;
mod memory;
mod merge;
mod rotary;
mod score;
mod slow;
mod store;
mod weights;

pub use choice::{Device, DeviceChoice};
pub(crate) use forward::TensorDecoder;
pub(crate) use generate::{generate, plan as generation_plan};
pub(crate) use memory::default_budget;
pub(crate) use score::score;
pub(crate) use slow::{SlowDecoder, check_tensors};
pub(crate) use weights::{device_error, held_as};
