//! The parts of a decoder layer between its matrix products, each one pass over memory.

use super::exp::exp;
use super::{kernel, multiply_add};

/// Independent partial sums of a reduction: as many as fill two AVX2 registers.
const LANES: usize = 16;

kernel! {
    /// RMS normalisation of each row: `y = x / √(mean(x²) + ε) · weight`.
    ///
    /// `x` and `y` are rows of `weight.len()`.
    pub(crate) fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) = rms_norm_body
}

#[inline(always)]
fn rms_norm_body<const FUSED: bool>(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
    let width = weight.len();
    for (row, out) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
        let scale = inverse_rms::<FUSED>(row, epsilon);
        for ((out, value), weight) in out.iter_mut().zip(row).zip(weight) {
            *out = value * scale * weight;
        }
    }
}

kernel! {
    /// [`rms_norm`] of rows that are overwritten.
    pub(crate) fn rms_norm_in_place(rows: &mut [f32], weight: &[f32], epsilon: f32) = rms_norm_in_place_body
}

#[inline(always)]
fn rms_norm_in_place_body<const FUSED: bool>(rows: &mut [f32], weight: &[f32], epsilon: f32) {
    for row in rows.chunks_exact_mut(weight.len()) {
        let scale = inverse_rms::<FUSED>(row, epsilon);
        for (value, weight) in row.iter_mut().zip(weight) {
            *value = *value * scale * weight;
        }
    }
}

/// 1 / √(mean(x²) + ε).
#[inline(always)]
fn inverse_rms<const FUSED: bool>(row: &[f32], epsilon: f32) -> f32 {
    let (blocks, tail) = row.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for block in blocks {
        for (sum, value) in lanes.iter_mut().zip(block) {
            *sum = multiply_add::<FUSED>(*value, *value, *sum);
        }
    }
    let squares = lanes.iter().sum::<f32>() + tail.iter().map(|value| value * value).sum::<f32>();
    1.0 / (squares / row.len() as f32 + epsilon).sqrt()
}

kernel! {
    /// Rotary position embedding of one row, in place, in transformers' pairing: element `i` of a head turns with
    /// element `i + n`, where `n` is the number of angles; elements from `2n` on stay.
    ///
    /// `row` holds whole heads of `head_dim`; the angles' cosines and sines are those of the row's position.
    pub(crate) fn rotate(row: &mut [f32], head_dim: usize, angles: (&[f32], &[f32])) = rotate_body
}

#[inline(always)]
fn rotate_body<const FUSED: bool>(row: &mut [f32], head_dim: usize, (cos, sin): (&[f32], &[f32])) {
    let half = cos.len();
    for head in row.chunks_exact_mut(head_dim) {
        let (first, second) = head[..2 * half].split_at_mut(half);
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            let (x, y) = (*a, *b);
            *a = multiply_add::<FUSED>(x, *cos, -(y * sin));
            *b = multiply_add::<FUSED>(y, *cos, x * sin);
        }
    }
}

kernel! {
    /// The gated activation: `out = silu(gate) · up`, with `silu(g) = g / (1 + e⁻ᵍ)`.
    ///
    /// A row of `gate_up` holds the gate's outputs, then those of `up`; `width` is the length of each.
    pub(crate) fn swiglu(gate_up: &[f32], width: usize, out: &mut [f32]) = swiglu_body
}

#[inline(always)]
fn swiglu_body<const FUSED: bool>(gate_up: &[f32], width: usize, out: &mut [f32]) {
    for (row, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
        let (gate, up) = row.split_at(width);
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate / (1.0 + exp::<FUSED>(-gate)) * up;
        }
    }
}

kernel! {
    /// The gated activation: `out = gelu(gate) · up`, with GELU's tanh approximation.
    ///
    /// The layout is [`swiglu`]'s. As (1 + tanh u) / 2 = 1 / (1 + e⁻²ᵘ), no hyperbolic function is needed.
    pub(crate) fn geglu(gate_up: &[f32], width: usize, out: &mut [f32]) = geglu_body
}

#[inline(always)]
fn geglu_body<const FUSED: bool>(gate_up: &[f32], width: usize, out: &mut [f32]) {
    // 2 · √(2/π)
    const DOUBLE_SLOPE: f32 = 1.595_769;
    for (row, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
        let (gate, up) = row.split_at(width);
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            let twice = DOUBLE_SLOPE * (gate + 0.044_715 * gate * gate * gate);
            *out = gate / (1.0 + exp::<FUSED>(-twice)) * up;
        }
    }
}

kernel! {
    /// Soft-capping: every value v becomes `cap · tanh(scale · v / cap)`.
    ///
    /// The absolute error is some 1e-7 of the cap.
    pub(crate) fn soft_cap(values: &mut [f32], scale: f32, cap: f32) = soft_cap_body
}

#[inline(always)]
fn soft_cap_body<const FUSED: bool>(values: &mut [f32], scale: f32, cap: f32) {
    let slope = 2.0 * scale / cap;
    for value in values {
        *value = cap - 2.0 * cap / (1.0 + exp::<FUSED>(slope * *value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rms_norm_agrees_with_its_formula() {
        let x: Vec<f32> = (0..42).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let weight: Vec<f32> = (0..21).map(|i| 1.0 + i as f32 * 0.01).collect();
        let mut y = vec![0.0; 42];
        rms_norm(&x, &weight, 1e-5, &mut y);
        for (row, out) in x.chunks(21).zip(y.chunks(21)) {
            let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 21.0;
            for ((out, value), weight) in out.iter().zip(row).zip(&weight) {
                let exact = f64::from(*value) / (mean + 1e-5).sqrt() * f64::from(*weight);
                assert!((f64::from(*out) - exact).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn rotation_turns_pairs_by_the_angle_and_keeps_their_length() {
        let angle = 0.4_f32;
        let mut row = vec![3.0, 1.0, 4.0, 2.0];
        rotate(&mut row, 4, (&[angle.cos(), 1.0], &[angle.sin(), 0.0]));
        assert!((row[0] - (3.0 * angle.cos() - 4.0 * angle.sin())).abs() < 1e-6);
        assert!((row[2] - (4.0 * angle.cos() + 3.0 * angle.sin())).abs() < 1e-6);
        assert_eq!((row[1], row[3]), (1.0, 2.0));
        assert!((row[0].hypot(row[2]) - 5.0).abs() < 1e-5);
    }

    #[test]
    fn swiglu_agrees_with_its_formula() {
        let gate_up = [-30.0_f32, -1.0, 0.0, 2.5, 3.0, 3.0, 3.0, 3.0];
        let mut out = [0.0; 4];
        swiglu(&gate_up, 4, &mut out);
        for (out, gate) in out.iter().zip(&gate_up[..4]) {
            let gate = f64::from(*gate);
            assert!((f64::from(*out) - gate / (1.0 + (-gate).exp()) * 3.0).abs() < 1e-6);
        }
    }

    #[test]
    fn a_part_of_a_head_can_turn() {
        let mut row = vec![3.0, 4.0, 7.0, 8.0, 9.0, 5.0, 6.0, 1.0];
        rotate(&mut row, 4, (&[0.0], &[1.0]));
        assert_eq!(row, [-4.0, 3.0, 7.0, 8.0, -5.0, 9.0, 6.0, 1.0]);
    }

    #[test]
    fn geglu_and_soft_cap_agree_with_their_formulas() {
        let gates = [-30.0_f32, -3.0, -1.0, -1e-4, 0.0, 0.7, 2.5, 40.0];
        let gate_up = [gates, [3.0; 8]].concat();
        let mut out = [0.0; 8];
        geglu(&gate_up, 8, &mut out);
        let mut capped = gates;
        soft_cap(&mut capped, 2.0, 5.0);
        for ((out, capped), gate) in out.iter().zip(capped).zip(gates) {
            let gate = f64::from(gate);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044715 * gate.powi(3));
            assert!((f64::from(*out) - gate / 2.0 * (1.0 + inner.tanh()) * 3.0).abs() < 1e-5);
            assert!((f64::from(capped) - 5.0 * (gate * 2.0 / 5.0).tanh()).abs() < 2e-6, "{capped} {gate}");
        }
    }
}
