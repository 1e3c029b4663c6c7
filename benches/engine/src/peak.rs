//! What the machine can do at most: multiply-adds in registers, reading and copying memory. The measure of what kernels
//! reach.

use crate::timing::interleaved;
use rayon::prelude::*;
use serde_json::json;
use std::hint::black_box;

/// Multiply-adds that one thread does in a round: some milliseconds.
const STEPS: usize = 1 << 20;
/// Independent sums, enough to hide the latency of any CPU's multiply-add.
const SUMS: usize = 12;
/// Bytes read, and copied: far more than a cache.
const BYTES: usize = 1 << 28;
/// Bytes that one task takes.
const STRETCH: usize = 1 << 20;

/// Prints one JSON object.
pub(crate) fn run() {
    let threads = rayon::current_num_threads();
    let source = vec![1_u64; BYTES / 8];
    let mut target = vec![2_u64; BYTES / 8];
    let (mut one, mut all) = (0, 0);
    let seconds = interleaved(
        15,
        &mut [
            Box::new(|| one = multiply_add(STEPS)),
            Box::new(|| all = (0..threads).into_par_iter().map(|_| multiply_add(STEPS)).sum()),
            Box::new(|| {
                let sum = |part: &[u64]| part.iter().fold(0_u64, |sum, value| sum ^ value);
                black_box(source.par_chunks(STRETCH / 8).map(sum).reduce(|| 0, |a, b| a ^ b));
            }),
            Box::new(|| {
                let pairs = target.par_chunks_mut(STRETCH / 8).zip(source.par_chunks(STRETCH / 8));
                pairs.for_each(|(target, source)| target.copy_from_slice(source));
            }),
        ],
    );
    let rate = |amount: usize, seconds: f64| amount as f64 / seconds / 1e9;
    let report = json!({
        "threads": threads,
        "f32_gflop_per_s": {"one thread": rate(one, seconds[0]), "all threads": rate(all, seconds[1])},
        "read_gb_per_s": rate(BYTES, seconds[2]), "copy_gb_per_s": rate(2 * BYTES, seconds[3]),
    });
    println!("{report}");
}

/// Does that many steps of multiply-adds in the widest registers that there are; returns the operations, two to each.
fn multiply_add(steps: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: AVX-512 was detected.
            return unsafe { avx512(steps) };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: both features were detected.
            return unsafe { avx2(steps) };
        }
    }
    let mut sums = [1.0_f32; SUMS];
    let factor = black_box(0.5_f32);
    for _ in 0..steps {
        sums.iter_mut().for_each(|sum| *sum = *sum * factor + factor);
    }
    black_box(sums);
    2 * SUMS * steps
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(steps: usize) -> usize {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps};
    let mut sums = [_mm512_set1_ps(1.0); SUMS];
    let factor = _mm512_set1_ps(black_box(0.5));
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, factor, factor);
        }
    }
    black_box(sums);
    2 * 16 * SUMS * steps
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(steps: usize) -> usize {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps};
    let mut sums = [_mm256_set1_ps(1.0); SUMS];
    let factor = _mm256_set1_ps(black_box(0.5));
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, factor, factor);
        }
    }
    black_box(sums);
    2 * 8 * SUMS * steps
}
