//! CPU kernels over plain slices: matrix products on packed weights, the fused rest of a decoder layer, and the
//! passes of a merge.
//!
//! **Every row is computed on its own**, by the same sequence of operations whatever other rows are in the batch,
//! however the work is blocked and by however many threads. So batched results equal one-by-one results bit for
//! bit on one kind of CPU, and threads may be used freely.
//!
//! Kernels exist twice, from one source: with AVX2 and FMA, chosen at run time, and for whatever the compiler
//! targets; the matrix product also with AVX-512. `FUSED` says whether multiply-add is one instruction.

mod attention;
mod elementwise;
mod exp;
mod fused_sum;
mod gemm;
mod layer;
mod low_rank;
mod packed;
mod softmax;

pub(crate) use attention::{PackedHead, Queries, Visible, attend, head_sizes, store_position};
pub(crate) use elementwise::{
    add_scaled_bf16, add_scaled_difference, add_scaled_f16, add_scaled_f32, decode_bf16, decode_f16,
    decode_f32, encode_bf16, encode_f16, encode_f32, round_bf16, round_f16,
};
pub(crate) use fused_sum::{MOST, Stored, Terms, fused_sum};
pub(crate) use gemm::gemm;
pub(crate) use layer::{geglu, rms_norm, rms_norm_in_place, rotate, soft_cap, swiglu};
pub(crate) use low_rank::LowRank;
pub(crate) use packed::{PANEL, PackedMatrix, PanelMut, PanelType, pack_panel};
pub(crate) use softmax::RunningSoftmax;

/// How much of the machine one kernel call may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The calling thread: others are busy with other chunks.
    One,
    /// The whole rayon pool: this call is all there is to do.
    All,
}

/// Whether the AVX2 and FMA forms may run.
#[inline]
pub(crate) fn has_avx2_fma() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Whether the plain form may use fused multiply-add: without the instruction it is a slow library call.
pub(crate) const PLAIN_FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

/// `a · b + c`, fused where `FUSED`.
#[inline(always)]
pub(crate) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Defines a kernel that runs `$body::<FUSED>` compiled for AVX2 and FMA where the CPU has them.
macro_rules! kernel {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) = $body:ident) => {
        $(#[$meta])*
        $visibility fn $name($($argument: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn vectorised($($argument: $type),*) {
                    $body::<true>($($argument),*);
                }
                if $crate::kernels::has_avx2_fma() {
                    // SAFETY: both features were detected on this CPU.
                    unsafe { vectorised($($argument),*) };
                    return;
                }
            }
            $body::<{ $crate::kernels::PLAIN_FUSED }>($($argument),*);
        }
    };
}
pub(crate) use kernel;
