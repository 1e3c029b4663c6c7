//! Weight matrices in the layout that the matrix product reads.

use std::ops::{Deref, DerefMut};

use super::kernel;

/// Outputs per panel: one AVX-512 register of f32, or two of AVX2.
pub(crate) const PANEL: usize = 16;

/// What panels hold their elements as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PanelType {
    F32,
    /// In half the memory; the product widens it.
    Bf16,
}

impl PanelType {
    /// 32-bit words of a panel.
    pub(crate) fn words(self, inputs: usize) -> usize {
        PANEL
            * match self {
                Self::F32 => inputs,
                Self::Bf16 => inputs.div_ceil(2),
            }
    }
}

/// A weight matrix `[outputs, inputs]` as panels of [`PANEL`] outputs.
///
/// One step of the product loads the weights of 16 outputs for one or two inputs from adjacent memory, and reading a
/// panel is one linear walk. The last panel is filled with zeros.
pub(crate) struct PackedMatrix {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) panels: Panels,
}

/// All panels of a matrix.
pub(crate) enum Panels {
    /// Each `[inputs][PANEL]`.
    F32(Lines<f32>),
    /// Each `[⌈inputs / 2⌉][PANEL]` of [pairs](pair).
    Bf16(Lines<u32>),
}

/// Bytes of a cache line, as many as [`PANEL`] words have.
const LINE: usize = 64;

/// Words that begin with a cache line: none of the panels' rows lies across two.
pub(crate) struct Lines<T> {
    words: Vec<T>,
    start: usize,
}

impl<T: Copy + Default> Lines<T> {
    fn zeros(length: usize) -> Self {
        let words = vec![T::default(); length + LINE / size_of::<T>() - 1];
        // The buffer is never moved.
        let start = words.as_ptr().align_offset(LINE).min(words.len() - length);
        Self { words, start }
    }
}

impl<T> Deref for Lines<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.words[self.start..]
    }
}

impl<T> DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.words[self.start..]
    }
}

/// Two inputs' weights for one output: the even input's bf16 in the lower half, the next one's in the upper half.
///
/// A shift or a mask widens either, and it is the layout that the CPU's own bf16 instructions read.
#[inline(always)]
fn pair(even: f32, odd: f32) -> u32 {
    even.to_bits() >> 16 | odd.to_bits() & 0xffff_0000
}

/// One weight of a [`pair`].
#[inline(always)]
pub(super) fn of_pair(pair: u32, odd: bool) -> f32 {
    f32::from_bits(if odd { pair & 0xffff_0000 } else { pair << 16 })
}

impl PackedMatrix {
    /// A matrix of zeros.
    pub(crate) fn zeros(panel_type: PanelType, outputs: usize, inputs: usize) -> Self {
        let words = outputs.div_ceil(PANEL) * panel_type.words(inputs);
        let panels = match panel_type {
            PanelType::F32 => Panels::F32(Lines::zeros(words)),
            PanelType::Bf16 => Panels::Bf16(Lines::zeros(words)),
        };
        Self { outputs, inputs, panels }
    }

    /// The whole matrix for the product.
    pub(crate) fn view(&self) -> PackedView<'_> {
        self.some_panels(0, self.outputs.div_ceil(PANEL))
    }

    /// The outputs of panels `first..last`, as a matrix of its own.
    pub(crate) fn some_panels(&self, first: usize, last: usize) -> PackedView<'_> {
        let inputs = self.inputs;
        let (stride, data) = match &self.panels {
            Panels::F32(data) => {
                let width = PanelType::F32.words(inputs);
                (width, PanelsView::F32(&data[first * width..last * width]))
            }
            Panels::Bf16(data) => {
                let width = PanelType::Bf16.words(inputs);
                (width, PanelsView::Bf16(&data[first * width..last * width]))
            }
        };
        PackedView { outputs: (last * PANEL).min(self.outputs) - first * PANEL, inputs, stride, data }
    }

    /// Every panel to be written by itself, in order.
    pub(crate) fn panels_mut(&mut self) -> impl Iterator<Item = PanelMut<'_>> {
        let inputs = self.inputs;
        let (wide, narrow) = match &mut self.panels {
            Panels::F32(data) => (&mut **data, [].as_mut_slice()),
            Panels::Bf16(data) => ([].as_mut_slice(), &mut **data),
        };
        let wide = wide.chunks_exact_mut(PanelType::F32.words(inputs)).map(PanelMut::F32);
        wide.chain(narrow.chunks_exact_mut(PanelType::Bf16.words(inputs)).map(PanelMut::Bf16))
    }

    /// Copies row `output` (the weights of one output) into `row`.
    pub(crate) fn copy_row(&self, output: usize, row: &mut [f32]) {
        let lane = output % PANEL;
        match &self.panels {
            Panels::F32(data) => {
                let width = PanelType::F32.words(self.inputs);
                let panel = &data[output / PANEL * width..][..width];
                for (value, weights) in row.iter_mut().zip(panel.as_chunks::<PANEL>().0) {
                    *value = weights[lane];
                }
            }
            Panels::Bf16(data) => {
                let width = PanelType::Bf16.words(self.inputs);
                let panel = &data[output / PANEL * width..][..width];
                for (values, pairs) in row.chunks_mut(2).zip(panel.as_chunks::<PANEL>().0) {
                    for (odd, value) in [false, true].into_iter().zip(values) {
                        *value = of_pair(pairs[lane], odd);
                    }
                }
            }
        }
    }
}

/// Borrowed panels: of a [`PackedMatrix`], or with room between them.
#[derive(Clone, Copy)]
pub(crate) struct PackedView<'a> {
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    /// Words from one panel to the next.
    pub(crate) stride: usize,
    pub(crate) data: PanelsView<'a>,
}

/// Borrowed [`Panels`].
#[derive(Clone, Copy)]
pub(crate) enum PanelsView<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u32]),
}

/// One panel that is written.
pub(crate) enum PanelMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [u32]),
}

/// Writes `rows` (row-major, at most [`PANEL`] rows of `inputs`) into one panel; absent rows become zeros. What goes into
/// a bf16 panel is rounded to bf16 already. `pairs` is scratch.
pub(crate) fn pack_panel(rows: &[f32], inputs: usize, panel: PanelMut<'_>, pairs: &mut Vec<u32>) {
    match panel {
        PanelMut::F32(panel) => pack(rows, inputs, panel),
        PanelMut::Bf16(panel) => {
            let width = inputs.div_ceil(2);
            pairs.resize(rows.len() / inputs * width, 0);
            for (row, pairs) in rows.chunks_exact(inputs).zip(pairs.chunks_exact_mut(width)) {
                pair_up(row, pairs);
            }
            pack(pairs, width, panel);
        }
    }
}

kernel! {
    /// Pairs neighbours; with an odd last element goes a zero.
    fn pair_up(row: &[f32], pairs: &mut [u32]) = pair_up_body
}

#[inline(always)]
fn pair_up_body<const FUSED: bool>(row: &[f32], pairs: &mut [u32]) {
    let (whole, rest) = row.as_chunks::<2>();
    for ([even, odd], words) in whole.iter().zip(pairs.iter_mut()) {
        *words = pair(*even, *odd);
    }
    if let ([even], Some(last)) = (rest, pairs.last_mut()) {
        *last = pair(*even, 0.0);
    }
}

/// Transposes up to [`PANEL`] rows of `width` words into `[width][PANEL]`.
fn pack<T: Word>(rows: &[T], width: usize, panel: &mut [T]) {
    let count = rows.len() / width;
    let mut start = 0;
    #[cfg(target_arch = "x86_64")]
    if count == PANEL && super::has_avx2_fma() {
        // SAFETY: AVX2 was detected.
        start = unsafe {
            if panel.as_ptr().align_offset(LINE) == 0 {
                avx2::pack::<T, true>(rows, width, panel)
            } else {
                avx2::pack::<T, false>(rows, width, panel)
            }
        };
    }
    if count < PANEL {
        panel.fill(T::default());
    }
    // Eight columns at a time keep the reads in the same cache lines and the writes in few.
    while start < width {
        let columns = (width - start).min(BLOCK);
        let weights = &mut panel[start * PANEL..(start + columns) * PANEL];
        for (row, values) in rows.chunks_exact(width).enumerate() {
            for (column, value) in values[start..start + columns].iter().enumerate() {
                weights[column * PANEL + row] = *value;
            }
        }
        start += columns;
    }
}

/// Columns that are packed together.
const BLOCK: usize = 8;

/// 32 bits without rules.
///
/// # Safety
/// Types of four bytes, all of whose bits are valid.
unsafe trait Word: Copy + Default {}

// SAFETY: four bytes, any bits.
unsafe impl Word for f32 {}
// SAFETY: four bytes, any bits.
unsafe impl Word for u32 {}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{BLOCK, PANEL, Word};
    use std::arch::x86_64::{
        __m256, _mm_sfence, _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_shuffle_ps, _mm256_storeu_ps,
        _mm256_stream_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
    };

    /// Packs [`PANEL`] rows, [`BLOCK`] columns at a time, and returns how many columns that makes. Words are moved as
    /// f32 whatever they are. `LINES`: the panel begins with a cache line; its lines are written past the caches, which
    /// would have to fetch them first.
    #[target_feature(enable = "avx2")]
    pub(super) fn pack<T: Word, const LINES: bool>(rows: &[T], width: usize, panel: &mut [T]) -> usize {
        let blocks = width / BLOCK;
        for (block, weights) in panel.as_chunks_mut::<{ BLOCK * PANEL }>().0[..blocks].iter_mut().enumerate()
        {
            let half = |half: usize| -> [__m256; 8] {
                let row = |index: usize| -> &[T; BLOCK] {
                    rows[(half * 8 + index) * width + block * BLOCK..]
                        .first_chunk()
                        .expect("the block ends with the row")
                };
                // SAFETY: eight words are read from an array of eight.
                transposed(std::array::from_fn(|index| unsafe {
                    _mm256_loadu_ps(row(index).as_ptr().cast())
                }))
            };
            let halves = [half(0), half(1)];
            for (column, line) in weights.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
                for (values, target) in halves.iter().zip(line.as_chunks_mut::<8>().0) {
                    let target = target.as_mut_ptr().cast();
                    // SAFETY: eight words are written to an array of eight, at half a line where `LINES`.
                    unsafe {
                        if LINES {
                            _mm256_stream_ps(target, values[column]);
                        } else {
                            _mm256_storeu_ps(target, values[column]);
                        }
                    }
                }
            }
        }
        if LINES {
            // Before anyone is told that they are written.
            _mm_sfence();
        }
        blocks * BLOCK
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn transposed(rows: [__m256; 8]) -> [__m256; 8] {
        let [a, b, c, d, e, f, g, h] = rows;
        // Pairs of rows, then fours, then both halves of the registers.
        let (ab, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (cd, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        let (ef, ef_high) = (_mm256_unpacklo_ps(e, f), _mm256_unpackhi_ps(e, f));
        let (gh, gh_high) = (_mm256_unpacklo_ps(g, h), _mm256_unpackhi_ps(g, h));
        let upper = [
            _mm256_shuffle_ps::<0x44>(ab, cd),
            _mm256_shuffle_ps::<0xee>(ab, cd),
            _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
            _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
        ];
        let lower = [
            _mm256_shuffle_ps::<0x44>(ef, gh),
            _mm256_shuffle_ps::<0xee>(ef, gh),
            _mm256_shuffle_ps::<0x44>(ef_high, gh_high),
            _mm256_shuffle_ps::<0xee>(ef_high, gh_high),
        ];
        [
            _mm256_permute2f128_ps::<0x20>(upper[0], lower[0]),
            _mm256_permute2f128_ps::<0x20>(upper[1], lower[1]),
            _mm256_permute2f128_ps::<0x20>(upper[2], lower[2]),
            _mm256_permute2f128_ps::<0x20>(upper[3], lower[3]),
            _mm256_permute2f128_ps::<0x31>(upper[0], lower[0]),
            _mm256_permute2f128_ps::<0x31>(upper[1], lower[1]),
            _mm256_permute2f128_ps::<0x31>(upper[2], lower[2]),
            _mm256_permute2f128_ps::<0x31>(upper[3], lower[3]),
        ]
    }
}
