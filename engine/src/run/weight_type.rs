//! The type that merged weights are rounded to.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// The sweep's weight type: merged weights are rounded to it once, at the end of the merge.
///
/// On CPU the computation itself is f32 whichever is chosen; `Bf16` and `F16` round the *weights*, so that a
/// point's answers are those of the model that an export in that type would give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WeightType {
    /// 32-bit floats: nothing is rounded.
    #[default]
    F32,
    /// 16-bit floats with the range of f32 and 8 bits of precision.
    Bf16,
    /// IEEE 16-bit floats.
    F16,
}

impl WeightType {
    /// The name used in sweep files and fingerprints: `f32`, `bf16` or `f16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// The type of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::F32, Self::Bf16, Self::F16].into_iter().find(|known| known.name() == name)
    }

    /// Rounds in place, to nearest, ties to even.
    pub(crate) fn round(self, values: &mut [f32]) {
        match self {
            Self::F32 => {}
            Self::Bf16 => {
                for value in values {
                    // Finite inputs only, so the carry of the rounding never meets a NaN.
                    let bits = value.to_bits();
                    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
                    *value = f32::from_bits(nearest & 0xffff_0000);
                }
            }
            Self::F16 => {
                let mut narrow = [f16::ZERO; 256];
                for block in values.chunks_mut(256) {
                    let narrow = &mut narrow[..block.len()];
                    narrow.convert_from_f32_slice(block);
                    narrow.convert_to_f32_slice(block);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_half_crate() {
        let values: Vec<f32> = (0..100_000_u32)
            .map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761)))
            .filter(|value| value.abs() < 60_000.0)
            .chain([0.0, -0.0, 1.0, 1.003_906_2, 1.011_718_8, -2.5])
            .collect();
        let mut rounded = values.clone();
        WeightType::Bf16.round(&mut rounded);
        for (value, rounded) in values.iter().zip(&rounded) {
            assert_eq!(half::bf16::from_f32(*value).to_f32().to_bits(), rounded.to_bits(), "{value}");
        }
        let mut rounded = values.clone();
        WeightType::F16.round(&mut rounded);
        for (value, rounded) in values.iter().zip(&rounded) {
            assert_eq!(f16::from_f32(*value).to_f32().to_bits(), rounded.to_bits(), "{value}");
        }
    }
}
