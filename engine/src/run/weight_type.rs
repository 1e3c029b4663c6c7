//! The type that merged weights are rounded to.

use crate::files::StoredType;
use crate::kernels::{round_bf16, round_f16};

/// The sweep's weight type: merged weights are rounded to it once, at the end of the merge.
///
/// On CPU the computation itself is f32 whichever is chosen; `Bf16` and `F16` round the *weights*, so that a
/// point's answers are those of the model that an export in that type would give. `Bf16` keeps them in two bytes.
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

    /// The same type in a file.
    pub(crate) fn stored(self) -> StoredType {
        match self {
            Self::F32 => StoredType::F32,
            Self::Bf16 => StoredType::BF16,
            Self::F16 => StoredType::F16,
        }
    }

    /// Rounds in place, to nearest, ties to even.
    pub(crate) fn round(self, values: &mut [f32]) {
        match self {
            Self::F32 => {}
            Self::Bf16 => round_bf16(values),
            Self::F16 => round_f16(values),
        }
    }
}
