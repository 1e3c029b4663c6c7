//! The merge's passes over stored weights: decode, add a multiple, round and encode.
//!
//! Every element is computed on its own by one multiplication and one addition per term, never fused, so both forms of
//! a kernel give the same bits on every CPU. Stored elements are little-endian bytes, aligned or not.

use super::kernel;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Elements that pass through an aligned buffer where the stored bytes cannot be used as they are.
const BUFFER: usize = 256;

kernel! {
    /// Decodes f32 elements; `bytes` holds exactly `out.len()` of them.
    pub(crate) fn decode_f32(bytes: &[u8], out: &mut [f32]) = decode_f32_body
}

#[inline(always)]
fn decode_f32_body<const FUSED: bool>(bytes: &[u8], out: &mut [f32]) {
    for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*raw);
    }
}

kernel! {
    /// Decodes bf16 elements; `bytes` holds exactly `out.len()` of them.
    pub(crate) fn decode_bf16(bytes: &[u8], out: &mut [f32]) = decode_bf16_body
}

#[inline(always)]
fn decode_bf16_body<const FUSED: bool>(bytes: &[u8], out: &mut [f32]) {
    for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *value = widened(*raw);
    }
}

/// A stored bf16 as f32.
#[inline(always)]
pub(super) fn widened(raw: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(raw)) << 16)
}

/// Decodes f16 elements; `bytes` holds exactly `out.len()` of them.
pub(crate) fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    // Through a small aligned buffer, so that `half` can convert with F16C where there is one.
    let mut aligned = [f16::ZERO; BUFFER];
    for (values, raw) in out.chunks_mut(BUFFER).zip(bytes.chunks(2 * BUFFER)) {
        for (one, two) in aligned.iter_mut().zip(raw.as_chunks::<2>().0) {
            *one = f16::from_le_bytes(*two);
        }
        aligned[..values.len()].convert_to_f32_slice(values);
    }
}

kernel! {
    /// `sums += factor · x` for f32 elements stored in `bytes`.
    pub(crate) fn add_scaled_f32(bytes: &[u8], factor: f32, sums: &mut [f32]) = add_scaled_f32_body
}

#[inline(always)]
fn add_scaled_f32_body<const FUSED: bool>(bytes: &[u8], factor: f32, sums: &mut [f32]) {
    for (sum, raw) in sums.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *sum += factor * f32::from_le_bytes(*raw);
    }
}

kernel! {
    /// `sums += factor · x` for bf16 elements stored in `bytes`.
    pub(crate) fn add_scaled_bf16(bytes: &[u8], factor: f32, sums: &mut [f32]) = add_scaled_bf16_body
}

#[inline(always)]
fn add_scaled_bf16_body<const FUSED: bool>(bytes: &[u8], factor: f32, sums: &mut [f32]) {
    for (sum, raw) in sums.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *sum += factor * widened(*raw);
    }
}

/// `sums += factor · x` for f16 elements stored in `bytes`.
pub(crate) fn add_scaled_f16(bytes: &[u8], factor: f32, sums: &mut [f32]) {
    let mut values = [0.0; BUFFER];
    for (sums, raw) in sums.chunks_mut(BUFFER).zip(bytes.chunks(2 * BUFFER)) {
        let values = &mut values[..sums.len()];
        decode_f16(raw, values);
        add_scaled(values, factor, sums);
    }
}

kernel! {
    /// `sums += factor · values`.
    pub(crate) fn add_scaled(values: &[f32], factor: f32, sums: &mut [f32]) = add_scaled_body
}

#[inline(always)]
fn add_scaled_body<const FUSED: bool>(values: &[f32], factor: f32, sums: &mut [f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

kernel! {
    /// `sums += factor · (minuend − subtrahend)`.
    pub(crate) fn add_scaled_difference(minuend: &[f32], subtrahend: &[f32], factor: f32, sums: &mut [f32])
        = add_scaled_difference_body
}

#[inline(always)]
fn add_scaled_difference_body<const FUSED: bool>(
    minuend: &[f32],
    subtrahend: &[f32],
    factor: f32,
    sums: &mut [f32],
) {
    for ((sum, minuend), subtrahend) in sums.iter_mut().zip(minuend).zip(subtrahend) {
        *sum += factor * (minuend - subtrahend);
    }
}

/// A finite or infinite value's nearest bf16, ties to even, in the upper half of the bits.
#[inline(always)]
pub(super) fn nearest_bf16(value: f32) -> u32 {
    let bits = value.to_bits();
    // No NaN comes here whose bits are all ones, the only values that the carry would turn into others.
    bits.wrapping_add(0x7fff + (bits >> 16 & 1))
}

kernel! {
    /// Rounds to bf16 in place, to nearest, ties to even.
    pub(crate) fn round_bf16(values: &mut [f32]) = round_bf16_body
}

#[inline(always)]
fn round_bf16_body<const FUSED: bool>(values: &mut [f32]) {
    for value in values {
        *value = f32::from_bits(nearest_bf16(*value) & 0xffff_0000);
    }
}

/// Rounds to f16 in place, to nearest, ties to even.
pub(crate) fn round_f16(values: &mut [f32]) {
    let mut narrow = [f16::ZERO; BUFFER];
    for block in values.chunks_mut(BUFFER) {
        let narrow = &mut narrow[..block.len()];
        narrow.convert_from_f32_slice(block);
        narrow.convert_to_f32_slice(block);
    }
}

kernel! {
    /// Encodes as f32; `bytes` has room for exactly `values.len()` elements.
    pub(crate) fn encode_f32(values: &[f32], bytes: &mut [u8]) = encode_f32_body
}

#[inline(always)]
fn encode_f32_body<const FUSED: bool>(values: &[f32], bytes: &mut [u8]) {
    for (raw, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *raw = value.to_le_bytes();
    }
}

kernel! {
    /// Encodes as bf16, rounded to nearest, ties to even; `bytes` has room for exactly `values.len()` elements.
    pub(crate) fn encode_bf16(values: &[f32], bytes: &mut [u8]) = encode_bf16_body
}

#[inline(always)]
fn encode_bf16_body<const FUSED: bool>(values: &[f32], bytes: &mut [u8]) {
    for (raw, value) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(values) {
        *raw = ((nearest_bf16(*value) >> 16) as u16).to_le_bytes();
    }
}

/// Encodes as f16, rounded to nearest, ties to even; `bytes` has room for exactly `values.len()` elements.
pub(crate) fn encode_f16(values: &[f32], bytes: &mut [u8]) {
    let mut narrow = [f16::ZERO; BUFFER];
    for (values, bytes) in values.chunks(BUFFER).zip(bytes.chunks_mut(2 * BUFFER)) {
        let narrow = &mut narrow[..values.len()];
        narrow.convert_from_f32_slice(values);
        for (raw, value) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(narrow) {
            *raw = value.to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    /// Values of every magnitude, some of them halfway between two bf16 or f16 numbers.
    fn values() -> Vec<f32> {
        (0..100_003_u32)
            .map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761)))
            .filter(|value| value.abs() < 60_000.0)
            .chain([0.0, -0.0, 1.0, 1.003_906_2, 1.011_718_8, -2.5])
            .collect()
    }

    #[test]
    fn rounding_and_encoding_are_those_of_the_half_crate() {
        let values = values();
        let (mut as_bf16, mut as_f16) = (values.clone(), values.clone());
        round_bf16(&mut as_bf16);
        round_f16(&mut as_f16);
        let (mut bf16_bytes, mut f16_bytes) = (vec![0; 2 * values.len()], vec![0; 2 * values.len()]);
        encode_bf16(&values, &mut bf16_bytes);
        encode_f16(&values, &mut f16_bytes);
        for (index, value) in values.iter().enumerate() {
            let (wide, narrow) = (bf16::from_f32(*value), f16::from_f32(*value));
            assert_eq!(wide.to_f32().to_bits(), as_bf16[index].to_bits(), "{value}");
            assert_eq!(narrow.to_f32().to_bits(), as_f16[index].to_bits(), "{value}");
            assert_eq!(wide.to_le_bytes(), bf16_bytes[2 * index..][..2], "{value}");
            assert_eq!(narrow.to_le_bytes(), f16_bytes[2 * index..][..2], "{value}");
        }
    }

    #[test]
    fn stored_elements_come_back_whatever_their_alignment() {
        let mut values = values();
        round_bf16(&mut values);
        values.retain(|value| f16::from_f32(*value).to_f32() == *value);
        type Codec = (usize, fn(&[f32], &mut [u8]), fn(&[u8], &mut [f32]));
        let codecs: [Codec; 3] =
            [(4, encode_f32, decode_f32), (2, encode_bf16, decode_bf16), (2, encode_f16, decode_f16)];
        for (size, encode, decode) in codecs {
            for shift in 0..3 {
                let mut bytes = vec![0; shift + size * values.len()];
                encode(&values, &mut bytes[shift..]);
                let mut decoded = vec![0.0; values.len()];
                decode(&bytes[shift..], &mut decoded);
                assert_eq!(decoded, values);
            }
        }
    }

    #[test]
    fn both_forms_of_a_sum_have_the_same_bits() {
        let values = values();
        let mut bytes = vec![0; 4 * values.len()];
        encode_f32(&values, &mut bytes);
        let (mut ours, mut plain) = (values.clone(), values.clone());
        add_scaled_f32(&bytes, 0.37, &mut ours);
        add_scaled_f32_body::<false>(&bytes, 0.37, &mut plain);
        let by_hand: Vec<u32> = values.iter().map(|value| (value + 0.37 * value).to_bits()).collect();
        let bits = |sums: &[f32]| sums.iter().map(|sum| sum.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&ours), by_hand);
        assert_eq!(bits(&plain), by_hand);
    }
}
