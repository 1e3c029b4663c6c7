//! Rotary embeddings: which angles, from the fields of transformers 4 and 5.
//!
//! transformers 4 writes `rope_theta` and `rope_scaling`, transformers 5 one object `rope_parameters`; where layers
//! that slide turn by other angles (Gemma 3), it holds one object per kind of layer.

use super::Architecture;
use crate::EngineError;
use crate::files::JsonFile;
use std::f32::consts::TAU;

/// One rotary embedding: element `i` of a head turns with element `i + n` by position · frequency `i`, where `n` is
/// the number of frequencies; elements from `2n` on stay as they are.
///
/// Linear, Llama 3 and YaRN scaling change the frequencies once for all. `longrope` has one set for sequences up to
/// the length that the model was first trained on and one for longer ones, so that a longer sequence's first tokens
/// differ from those of its own beginning; here the model's context ends with the first set. `dynamic` only acts
/// beyond `max_position_embeddings`, which the engine never computes.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// Radians per position, at most half as many as a head has elements. f32 arithmetic, as transformers has it.
    pub frequencies: Vec<f32>,
    /// Factor on cosines and sines, 1 without `yarn` and `longrope`.
    pub attention_factor: f32,
}

/// Where a rotary embedding is described, and what decides it besides.
pub(super) struct Description<'a> {
    pub(super) file: &'a JsonFile,
    /// Dotted name of the object.
    pub(super) section: &'a str,
    /// The base when the object names none.
    pub(super) theta: f64,
    pub(super) architecture: Architecture,
    pub(super) head_dim: usize,
    /// `max_position_embeddings`.
    pub(super) positions: usize,
}

const SUPPORTED: &str = "\"default\", \"linear\", \"dynamic\", \"llama3\", \"yarn\" and \"longrope\"";

impl Description<'_> {
    /// The rotary embedding, with the positions that it is good for.
    ///
    /// # Errors
    /// [`EngineError::Field`] for absent or impossible values, [`EngineError::Unsupported`] for another kind of
    /// scaling.
    pub(super) fn read(&self) -> Result<(Rotary, usize), EngineError> {
        let theta = self.number("rope_theta")?.unwrap_or(self.theta);
        let width = self.rotated_elements()?;
        let half = width / 2;
        // θ^(−2i/width), each step in f32.
        let plain: Vec<f32> = (0..half).map(|i| 1.0 / theta.powf(i as f64 / half as f64) as f32).collect();
        let done = |frequencies| Ok((Rotary { frequencies, attention_factor: 1.0 }, self.positions));
        let kind_field = self.kind_field()?;
        match self.file.optional_text(&kind_field)?.unwrap_or("default") {
            "default" | "dynamic" => done(plain),
            "linear" => {
                let factor = self.wanted("factor")? as f32;
                done(plain.into_iter().map(|frequency| frequency / factor).collect())
            }
            "llama3" => {
                let scale = Llama3 {
                    factor: self.wanted("factor")? as f32,
                    low: self.wanted("low_freq_factor")? as f32,
                    high: self.wanted("high_freq_factor")? as f32,
                    context: self.original_context()? as f32,
                };
                done(plain.into_iter().map(|frequency| scale.scaled(frequency)).collect())
            }
            // Phi-3 had these names for its own scaling at first.
            "longrope" | "su" => self.long_rope(&plain),
            "yarn" if self.architecture == Architecture::Phi3 => self.long_rope(&plain),
            "yarn" => Ok((self.yarn(theta, &plain)?, self.positions)),
            _ => Err(self.file.unsupported(&kind_field, SUPPORTED)),
        }
    }

    fn rotated_elements(&self) -> Result<usize, EngineError> {
        let share_field = self.place("partial_rotary_factor");
        let share = self.file.optional_number(&share_field)?.unwrap_or(1.0);
        let width = (self.head_dim as f64 * share) as usize;
        if width == 0 || !width.is_multiple_of(2) || width > self.head_dim {
            let field = if share == 1.0 { "head_dim" } else { &share_field };
            let wanted = "an even number of rotated elements per head, at most all of them";
            return Err(self.file.wrong(field, wanted));
        }
        Ok(width)
    }

    fn field(&self, field: &str) -> String {
        format!("{}.{field}", self.section)
    }

    /// Where a field of the embedding is: in the object, or else at the top level.
    pub(super) fn place(&self, field: &str) -> String {
        let inner = self.field(field);
        if self.file.get(&inner).is_some() { inner } else { field.to_owned() }
    }

    fn number(&self, field: &str) -> Result<Option<f64>, EngineError> {
        self.file.optional_number(&self.field(field))
    }

    fn wanted(&self, field: &str) -> Result<f64, EngineError> {
        self.number(field)?.ok_or_else(|| self.file.wrong(&self.field(field), "a positive number"))
    }

    /// The field that says the kind of scaling; older files call it `type`.
    fn kind_field(&self) -> Result<String, EngineError> {
        let field = self.field("rope_type");
        Ok(if self.file.optional_text(&field)?.is_some() { field } else { self.field("type") })
    }

    /// Positions that the model was trained on before its context was stretched.
    fn original_context(&self) -> Result<usize, EngineError> {
        // At the top level it comes first, as in transformers.
        for field in ["original_max_position_embeddings", &self.field("original_max_position_embeddings")] {
            if let Some(positions) = self.file.optional_size(field)? {
                return Ok(positions);
            }
        }
        Ok(if self.architecture == Architecture::Phi3 { 4096 } else { self.positions })
    }

    /// How often the context was stretched.
    fn stretch(&self, original: usize) -> Result<f64, EngineError> {
        Ok(self.number("factor")?.unwrap_or(self.positions as f64 / original as f64))
    }

    /// Phi-3's scaling, for sequences that are no longer than the original context.
    fn long_rope(&self, plain: &[f32]) -> Result<(Rotary, usize), EngineError> {
        let original = self.original_context()?;
        let field = self.field("short_factor");
        let divisors = self.file.numbers(&field)?.filter(|divisors| divisors.len() == plain.len());
        let divisors =
            divisors.ok_or_else(|| self.file.wrong(&field, &format!("{} positive numbers", plain.len())))?;
        let frequencies = plain.iter().zip(divisors).map(|(frequency, by)| frequency / by as f32).collect();
        let stretch = self.stretch(original)?.max(1.0);
        let attention_factor = match self.number("attention_factor")? {
            Some(factor) => factor,
            None => (1.0 + stretch.ln() / (original as f64).ln()).sqrt(),
        } as f32;
        Ok((Rotary { frequencies, attention_factor }, self.positions.min(original)))
    }

    /// YaRN (Peng et al. 2023): frequencies that turn more than `beta_fast` times within the original context are
    /// kept, those that turn less than `beta_slow` times divided by the factor, with a linear ramp over the indices
    /// between.
    fn yarn(&self, theta: f64, plain: &[f32]) -> Result<Rotary, EngineError> {
        let original = self.original_context()?;
        let factor = self.stretch(original)?;
        let width = 2.0 * plain.len() as f64;
        let index_of = |turns: f64| {
            width * (original as f64 / (turns * std::f64::consts::TAU)).ln() / (2.0 * theta.ln())
        };
        let mut low = index_of(self.number("beta_fast")?.unwrap_or(32.0));
        let mut high = index_of(self.number("beta_slow")?.unwrap_or(1.0));
        if self.file.flag(&self.field("truncate"))? != Some(false) {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(width - 1.0));
        if low == high {
            high += 0.001;
        }
        let blend = |(index, kept): (usize, &f32)| {
            let keep = 1.0 - ((index as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            kept / factor as f32 * (1.0 - keep) + kept * keep
        };
        let magnitude = |weight: f64| 0.1 * weight * factor.max(1.0).ln() + 1.0;
        let attention_factor = match self.number("attention_factor")? {
            Some(factor) => factor,
            None => match (self.number("mscale")?, self.number("mscale_all_dim")?) {
                (Some(one), Some(all)) => magnitude(one) / magnitude(all),
                _ => magnitude(1.0),
            },
        } as f32;
        Ok(Rotary { frequencies: plain.iter().enumerate().map(blend).collect(), attention_factor })
    }
}

/// Llama 3's scaling: slow turns are stretched, fast ones kept, those between interpolated.
struct Llama3 {
    factor: f32,
    low: f32,
    high: f32,
    context: f32,
}

impl Llama3 {
    fn scaled(&self, frequency: f32) -> f32 {
        let wavelength = TAU / frequency;
        if wavelength < self.context / self.high {
            frequency
        } else if wavelength > self.context / self.low {
            frequency / self.factor
        } else {
            let smooth = (self.context / wavelength - self.low) / (self.high - self.low);
            (1.0 - smooth) * frequency / self.factor + smooth * frequency
        }
    }
}
