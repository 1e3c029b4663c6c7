//! The decoder: token forests in, hidden states of the asked-for positions out.
//!
//! The seam for other devices: a decoder is filled from a [`MergingSource`](crate::merge::MergingSource), runs a
//! [`Forest`], steps cached sequences, and turns hidden states into logits. This one is for CPUs.

mod attention;
mod cache;
mod forest;
mod forward;
mod head;
mod memory;
mod rope;
mod weights;

pub(crate) use cache::{CacheShape, KvCache};
pub(crate) use forest::{Forest, ForestBuilder};
pub(crate) use forward::{Decoder, Step};
pub(crate) use head::TokenTarget;
pub(crate) use memory::PassBytes;
