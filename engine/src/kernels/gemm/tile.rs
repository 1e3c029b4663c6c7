//! The register tile: sums of some rows × some panels over a stretch of inputs, in the forms that CPUs have.
//!
//! | form | rows × panels | accumulators |
//! |---|---|---|
//! | AVX-512 | 8 × 3 | 24 registers of 32 |
//! | AVX2 and FMA | 6 × 1, several panels of few rows | 12 registers of 16 |
//! | plain | as AVX2 | whatever the compiler makes of it |

use super::super::packed::{PANEL, of_pair};
use super::super::{PLAIN_FUSED, has_avx2_fma, multiply_add};

/// How a tile is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Avx2,
    Avx512,
}

impl Form {
    /// The fastest one that this CPU has.
    #[inline]
    pub(super) fn best() -> Self {
        if has_avx512() {
            Self::Avx512
        } else if has_avx2_fma() {
            Self::Avx2
        } else {
            Self::Plain
        }
    }

    /// Those that this CPU has.
    #[cfg(test)]
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let forms = [(Self::Plain, true), (Self::Avx2, has_avx2_fma()), (Self::Avx512, has_avx512())];
        forms.into_iter().filter_map(|(form, had)| had.then_some(form))
    }

    /// Most rows of a tile, and the panels that it takes of so many rows.
    pub(super) fn shape(self, rows: usize) -> (usize, usize) {
        match (self, rows) {
            (Self::Avx512, _) => (8, 3),
            // With few rows several panels at a time keep enough accumulators in flight to hide the latency.
            (_, 1) => (6, 4),
            (_, 2 | 3) => (6, 2),
            _ => (6, 1),
        }
    }
}

fn has_avx512() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        has_avx2_fma() && std::arch::is_x86_feature_detected!("avx512f")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Inputs taken between two checks of the slices' bounds. Slices rather than pointers, so that builds with debug
/// assertions, which check every pointer, stay as fast as release builds.
const UNROLL: usize = 4;

/// The weights of a panel's outputs for one input, or for two: 64 bytes.
///
/// # Safety
/// Arrays of [`PANEL`] 32-bit numbers: f32 of one input, or pairs of bf16 of two.
pub(super) unsafe trait Line: Copy + Sync {
    const INPUTS: usize;
    /// The lines of [`UNROLL`] inputs.
    type Block;
    /// The whole blocks of some lines.
    fn blocks(lines: &[Self]) -> &[Self::Block];
    /// The line that has an input of a block.
    fn of_block(block: &Self::Block, input: usize) -> &Self;
    /// The weights of one of its inputs.
    fn widened(&self, input: usize) -> [f32; PANEL];
}

// SAFETY: f32 of one input.
unsafe impl Line for [f32; PANEL] {
    const INPUTS: usize = 1;
    type Block = [Self; UNROLL];

    #[inline(always)]
    fn blocks(lines: &[Self]) -> &[Self::Block] {
        lines.as_chunks().0
    }

    #[inline(always)]
    fn of_block(block: &Self::Block, input: usize) -> &Self {
        &block[input]
    }

    #[inline(always)]
    fn widened(&self, _input: usize) -> [f32; PANEL] {
        *self
    }
}

// SAFETY: pairs of bf16 of two inputs.
unsafe impl Line for [u32; PANEL] {
    const INPUTS: usize = 2;
    type Block = [Self; UNROLL / 2];

    #[inline(always)]
    fn blocks(lines: &[Self]) -> &[Self::Block] {
        lines.as_chunks().0
    }

    #[inline(always)]
    fn of_block(block: &Self::Block, input: usize) -> &Self {
        &block[input / 2]
    }

    #[inline(always)]
    fn widened(&self, input: usize) -> [f32; PANEL] {
        self.map(|pair| of_pair(pair, input % 2 == 1))
    }
}

/// Where a tile's sums go: rows of whole panels at `stride`.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub(super) y: *mut f32,
    pub(super) stride: usize,
    pub(super) accumulate: bool,
}

impl Output {
    /// Writes the sums of a tile.
    ///
    /// # Safety
    /// There is room for `M` rows of `P` panels, and nobody else uses it meanwhile.
    #[inline(always)]
    unsafe fn take<const M: usize, const P: usize>(self, sums: &[[[f32; PANEL]; P]; M]) {
        for (row, sums) in sums.iter().enumerate() {
            for (panel, sums) in sums.iter().enumerate() {
                // SAFETY: this function's own contract.
                let y = unsafe { &mut *self.y.add(row * self.stride + panel * PANEL).cast::<[f32; PANEL]>() };
                if self.accumulate {
                    y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum);
                } else {
                    *y = *sums;
                }
            }
        }
    }
}

/// `y[row][panel][output] (+)= Σ x[row][input] · panels[panel][input][output]`; all rows have one length, and the panels
/// the lines for it.
///
/// # Safety
/// `output` has room for `M` rows of `P` panels, and nobody else uses it meanwhile; the CPU has the form.
#[inline]
pub(super) unsafe fn sum_tile<L: Line, const M: usize, const P: usize>(
    form: Form,
    x: &[&[f32]; M],
    panels: &[&[L]; P],
    output: Output,
) {
    #[cfg(target_arch = "x86_64")]
    match form {
        // SAFETY: this function's own contract.
        Form::Avx512 => return unsafe { avx512::sum_tile(x, panels, output) },
        // SAFETY: this function's own contract.
        Form::Avx2 => return unsafe { avx2::sum_tile(x, panels, output) },
        Form::Plain => {}
    }
    debug_assert_eq!(form, Form::Plain);
    let mut sums = [[[0.0_f32; PANEL]; P]; M];
    for (x, sums) in x.iter().zip(&mut sums) {
        for (lines, sums) in panels.iter().zip(sums) {
            for (values, line) in x.chunks(L::INPUTS).zip(*lines) {
                for (input, value) in values.iter().enumerate() {
                    for (sum, weight) in sums.iter_mut().zip(line.widened(input)) {
                        *sum = multiply_add::<PLAIN_FUSED>(*value, weight, *sum);
                    }
                }
            }
        }
    }
    // SAFETY: this function's own contract.
    unsafe { output.take(&sums) };
}

/// Defines the tile for registers of some width.
#[cfg(target_arch = "x86_64")]
macro_rules! register_tile {
    ($features:literal, $register:ty, $count:literal, $zero:ident, $broadcast:ident, $multiply_add:ident) => {
        /// # Safety
        /// As that of `super::sum_tile`, on a CPU with these features.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn sum_tile<L: Line, const M: usize, const P: usize>(
            x: &[&[f32]; M],
            panels: &[&[L]; P],
            output: Output,
        ) {
            let depth = x[0].len();
            let blocks = depth / UNROLL;
            let mut sums = [[[$zero(); $count]; P]; M];
            let mut x_blocks: [&[[f32; UNROLL]]; M] = [&[]; M];
            for row in 0..M {
                x_blocks[row] = &x[row].as_chunks().0[..blocks];
            }
            let mut panel_blocks: [&[L::Block]; P] = [&[]; P];
            for panel in 0..P {
                panel_blocks[panel] = &L::blocks(panels[panel])[..blocks];
            }
            // Indices, because the compiler then keeps every accumulator in a register.
            for block in 0..blocks {
                for step in 0..UNROLL {
                    for panel in 0..P {
                        let weights = widened(L::of_block(&panel_blocks[panel][block], step), step);
                        for row in 0..M {
                            let value = $broadcast(x_blocks[row][block][step]);
                            for part in 0..$count {
                                sums[row][panel][part] =
                                    $multiply_add(value, weights[part], sums[row][panel][part]);
                            }
                        }
                    }
                }
            }
            for input in blocks * UNROLL..depth {
                for panel in 0..P {
                    let weights = widened(&panels[panel][input / L::INPUTS], input);
                    for row in 0..M {
                        let value = $broadcast(x[row][input]);
                        for part in 0..$count {
                            sums[row][panel][part] =
                                $multiply_add(value, weights[part], sums[row][panel][part]);
                        }
                    }
                }
            }
            // Out of the registers by constant indices first: a loop that took the registers' address would keep them
            // in memory all along.
            let mut numbers = [[[0.0_f32; PANEL]; P]; M];
            for row in 0..M {
                for panel in 0..P {
                    // SAFETY: these registers are 16 floats, and any bits are valid in both.
                    numbers[row][panel] =
                        unsafe { std::mem::transmute::<[$register; $count], [f32; PANEL]>(sums[row][panel]) };
                }
            }
            // SAFETY: this function's own contract.
            unsafe { output.take(&numbers) };
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Line, Output, PANEL, UNROLL};
    use std::arch::x86_64::{
        __m256, __m256i, _mm256_and_si256, _mm256_castsi256_ps, _mm256_fmadd_ps, _mm256_set1_epi32,
        _mm256_set1_ps, _mm256_setzero_ps, _mm256_slli_epi32,
    };

    register_tile!("avx2,fma", __m256, 2, _mm256_setzero_ps, _mm256_set1_ps, _mm256_fmadd_ps);

    #[target_feature(enable = "avx2")]
    #[inline]
    fn widened<L: Line>(line: &L, input: usize) -> [__m256; 2] {
        const { assert!(size_of::<L>() == 64) };
        // SAFETY: a line is as large as two registers, in which any bits are valid.
        let [low, high] = unsafe { std::mem::transmute_copy::<L, [__m256i; 2]>(line) };
        let one = |bits: __m256i| {
            _mm256_castsi256_ps(if L::INPUTS == 1 {
                bits
            } else if input.is_multiple_of(2) {
                _mm256_slli_epi32::<16>(bits)
            } else {
                _mm256_and_si256(bits, _mm256_set1_epi32(-0x1_0000))
            })
        };
        [one(low), one(high)]
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{Line, Output, PANEL, UNROLL};
    use std::arch::x86_64::{
        __m512, __m512i, _mm512_and_si512, _mm512_castsi512_ps, _mm512_fmadd_ps, _mm512_set1_epi32,
        _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32,
    };

    register_tile!("avx512f", __m512, 1, _mm512_setzero_ps, _mm512_set1_ps, _mm512_fmadd_ps);

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn widened<L: Line>(line: &L, input: usize) -> [__m512; 1] {
        const { assert!(size_of::<L>() == 64) };
        // SAFETY: a line is as large as a register, in which any bits are valid.
        let bits = unsafe { std::mem::transmute_copy::<L, __m512i>(line) };
        [_mm512_castsi512_ps(if L::INPUTS == 1 {
            bits
        } else if input.is_multiple_of(2) {
            _mm512_slli_epi32::<16>(bits)
        } else {
            _mm512_and_si512(bits, _mm512_set1_epi32(-0x1_0000))
        })]
    }
}
