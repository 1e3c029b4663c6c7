//! `base + Σ factor · vector` with the sums in registers: the pass that a merge is.
//!
//! Forms exist for up to [`MOST`] vectors of one stored type; they are only compiled for AVX2. What they compute is the
//! same, bit for bit, as decoding the base and adding one vector after the other.

use super::elementwise::{nearest_bf16, widened};

/// Vectors that are added in one pass.
pub(crate) const MOST: usize = 4;

/// Little-endian elements of a tensor, aligned or not.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stored<'a> {
    F32(&'a [u8]),
    Bf16(&'a [u8]),
    /// For which there is no form.
    F16,
}

impl Stored<'_> {
    /// Whether both are of one type.
    pub(crate) fn is_like(self, other: Stored<'_>) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// Some of a sum's vectors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms<'a, 'b> {
    /// Elements and factor of each, at most [`MOST`], all of one stored type.
    pub(crate) vectors: &'b [(Stored<'a>, f32)],
    /// Their elements count minus the base's.
    pub(crate) differences: bool,
}

/// Writes `base + Σ factor · vector` to `out`, rounded to bf16 if `round`; every operand has `out.len()` elements.
///
/// False, and nothing is written, where there is no form for these operands or this CPU.
pub(crate) fn fused_sum(base: Stored<'_>, terms: Terms<'_, '_>, round: bool, out: &mut [f32]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if super::has_avx2_fma() {
        return match base {
            Stored::F32(base) => avx2::with_base::<F32>(base, terms, round, out),
            Stored::Bf16(base) => avx2::with_base::<Bf16>(base, terms, round, out),
            Stored::F16 => false,
        };
    }
    false
}

/// A stored type.
trait Element {
    /// One stored element.
    type Raw: Copy;
    /// The elements of a `Stored` of this type.
    fn bytes(stored: Stored<'_>) -> Option<&[u8]>;
    fn elements(bytes: &[u8]) -> &[Self::Raw];
    fn widened(raw: Self::Raw) -> f32;
}

struct F32;

impl Element for F32 {
    type Raw = [u8; 4];

    fn bytes(stored: Stored<'_>) -> Option<&[u8]> {
        if let Stored::F32(bytes) = stored { Some(bytes) } else { None }
    }

    #[inline(always)]
    fn elements(bytes: &[u8]) -> &[Self::Raw] {
        bytes.as_chunks().0
    }

    #[inline(always)]
    fn widened(raw: Self::Raw) -> f32 {
        f32::from_le_bytes(raw)
    }
}

struct Bf16;

impl Element for Bf16 {
    type Raw = [u8; 2];

    fn bytes(stored: Stored<'_>) -> Option<&[u8]> {
        if let Stored::Bf16(bytes) = stored { Some(bytes) } else { None }
    }

    #[inline(always)]
    fn elements(bytes: &[u8]) -> &[Self::Raw] {
        bytes.as_chunks().0
    }

    #[inline(always)]
    fn widened(raw: Self::Raw) -> f32 {
        widened(raw)
    }
}

/// `V` vectors of type `T` on a base of type `B`. A plain loop over elements, with slices of one length and no closures
/// over arrays: in that form the compiler makes whole registers of it.
#[inline(always)]
fn sum<B: Element, T: Element, const V: usize, const DIFFERENCES: bool, const ROUND: bool>(
    base: &[u8],
    vectors: [&[u8]; V],
    factors: [f32; V],
    out: &mut [f32],
) {
    let length = out.len();
    let base = &B::elements(base)[..length];
    let vectors = vectors.map(|bytes| &T::elements(bytes)[..length]);
    for (index, out) in out.iter_mut().enumerate() {
        let start = B::widened(base[index]);
        let mut sum = start;
        for vector in 0..V {
            let value = T::widened(vectors[vector][index]);
            sum += factors[vector] * if DIFFERENCES { value - start } else { value };
        }
        *out = if ROUND { f32::from_bits(nearest_bf16(sum) & 0xffff_0000) } else { sum };
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Bf16, Element, F32, Stored, Terms};

    pub(super) fn with_base<B: Element>(
        base: &[u8],
        terms: Terms<'_, '_>,
        round: bool,
        out: &mut [f32],
    ) -> bool {
        match terms.vectors.first() {
            None => with_count::<B, F32, 0>(base, terms, round, out),
            Some((Stored::F32(_), _)) => with_type::<B, F32>(base, terms, round, out),
            Some((Stored::Bf16(_), _)) => with_type::<B, Bf16>(base, terms, round, out),
            Some((Stored::F16, _)) => false,
        }
    }

    fn with_type<B: Element, T: Element>(
        base: &[u8],
        terms: Terms<'_, '_>,
        round: bool,
        out: &mut [f32],
    ) -> bool {
        match terms.vectors.len() {
            1 => with_count::<B, T, 1>(base, terms, round, out),
            2 => with_count::<B, T, 2>(base, terms, round, out),
            3 => with_count::<B, T, 3>(base, terms, round, out),
            4 => with_count::<B, T, 4>(base, terms, round, out),
            _ => false,
        }
    }

    fn with_count<B: Element, T: Element, const V: usize>(
        base: &[u8],
        terms: Terms<'_, '_>,
        round: bool,
        out: &mut [f32],
    ) -> bool {
        let (mut vectors, mut factors) = ([&[][..]; V], [0.0; V]);
        for ((bytes, own), (stored, factor)) in vectors.iter_mut().zip(&mut factors).zip(terms.vectors) {
            let Some(elements) = T::bytes(*stored) else { return false };
            (*bytes, *own) = (elements, *factor);
        }
        // SAFETY: the caller detected AVX2.
        unsafe {
            match (terms.differences, round) {
                (false, false) => sum::<B, T, V, false, false>(base, vectors, factors, out),
                (false, true) => sum::<B, T, V, false, true>(base, vectors, factors, out),
                (true, false) => sum::<B, T, V, true, false>(base, vectors, factors, out),
                (true, true) => sum::<B, T, V, true, true>(base, vectors, factors, out),
            }
        }
        true
    }

    #[target_feature(enable = "avx2")]
    fn sum<B: Element, T: Element, const V: usize, const DIFFERENCES: bool, const ROUND: bool>(
        base: &[u8],
        vectors: [&[u8]; V],
        factors: [f32; V],
        out: &mut [f32],
    ) {
        super::sum::<B, T, V, DIFFERENCES, ROUND>(base, vectors, factors, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{add_scaled_bf16, add_scaled_difference, add_scaled_f32, decode_bf16, decode_f32};
    use crate::kernels::{encode_bf16, encode_f32, round_bf16};

    const LENGTH: usize = 1003;

    fn values(seed: usize) -> Vec<f32> {
        (0..LENGTH).map(|i| ((i * 31 + seed * 17) as f32 * 0.37).sin()).collect()
    }

    fn encoded(values: &[f32], wide: bool) -> Vec<u8> {
        let mut bytes = vec![0; values.len() * if wide { 4 } else { 2 }];
        if wide {
            encode_f32(values, &mut bytes);
        } else {
            encode_bf16(values, &mut bytes);
        }
        bytes
    }

    fn stored(bytes: &[u8], wide: bool) -> Stored<'_> {
        if wide { Stored::F32(bytes) } else { Stored::Bf16(bytes) }
    }

    fn decoded(bytes: &[u8], wide: bool) -> Vec<f32> {
        let mut values = vec![0.0; LENGTH];
        if wide {
            decode_f32(bytes, &mut values);
        } else {
            decode_bf16(bytes, &mut values);
        }
        values
    }

    #[test]
    fn one_pass_has_the_bits_of_one_vector_after_the_other() {
        let both = [false, true];
        for (wide_base, wide, differences, round) in both.into_iter().flat_map(|a| {
            both.into_iter().flat_map(move |b| {
                both.into_iter().flat_map(move |c| both.into_iter().map(move |d| (a, b, c, d)))
            })
        }) {
            let base = encoded(&values(0), wide_base);
            let vectors: Vec<Vec<u8>> = (1..=MOST).map(|seed| encoded(&values(seed), wide)).collect();
            for count in 0..=MOST {
                let terms: Vec<(Stored<'_>, f32)> = vectors[..count]
                    .iter()
                    .enumerate()
                    .map(|(index, bytes)| (stored(bytes, wide), 0.4 - 0.3 * index as f32))
                    .collect();
                let mut out = vec![f32::NAN; LENGTH];
                let terms = Terms { vectors: &terms, differences };
                if !fused_sum(stored(&base, wide_base), terms, round, &mut out) {
                    assert!(!crate::kernels::has_avx2_fma());
                    return;
                }
                let before = decoded(&base, wide_base);
                let mut wanted = before.clone();
                for (bytes, (_, factor)) in vectors.iter().zip(terms.vectors) {
                    match (differences, wide) {
                        (true, _) => {
                            add_scaled_difference(&decoded(bytes, wide), &before, *factor, &mut wanted);
                        }
                        (false, true) => add_scaled_f32(bytes, *factor, &mut wanted),
                        (false, false) => add_scaled_bf16(bytes, *factor, &mut wanted),
                    }
                }
                if round {
                    round_bf16(&mut wanted);
                }
                let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&out), bits(&wanted), "{count} vectors");
            }
        }
    }
}
