//! The engine: a base, its vectors, and the merged model of the present point.

use super::generate::{Generation, generate};
use super::prepare::{PreparedPrompts, PreparedScores, PromptItem, ScoreItem};
use super::sample::Sampling;
use super::score::{ReferenceScore, score};
use super::weight_type::WeightType;
use crate::decoder::{Decoder, ForestBuilder};
use crate::kernels::Threads;
use crate::merge::{CandleSource, Coefficient, MergePlan, MergingSource};
use crate::model::BaseModel;
use crate::text::Message;
use crate::vector::AlignmentVector;
use crate::{EngineError, ItemError};
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use rayon::prelude::*;
use std::fmt;
use std::sync::Arc;

/// Elements of a tensor that one task merges.
const PART: usize = 1 << 16;

/// Merges and evaluates points. Always holds the merged model of some point: the base's at first.
///
/// All calls block, and use the rayon pool that they are called in (the global one by default). Results depend
/// neither on the number of threads, nor on the points merged before, nor on what else is in a batch.
pub struct Engine {
    base: BaseModel,
    vectors: Vec<AlignmentVector>,
    plan: Arc<MergePlan>,
    dtype: WeightType,
    /// The merged point.
    point: Vec<f32>,
    decoder: Decoder,
}

impl Engine {
    /// Sets the engine up and merges the origin (every coefficient zero).
    ///
    /// # Errors
    /// [`EngineError::OtherBase`] when a vector was opened against another base; complaints about coefficients
    /// and their patterns.
    pub fn load(
        base: BaseModel,
        vectors: Vec<AlignmentVector>,
        coefficients: &[Coefficient],
        dtype: WeightType,
    ) -> Result<Self, EngineError> {
        for vector in &vectors {
            let theirs = vector.base();
            if !Arc::ptr_eq(theirs, &base.weights) && theirs.fingerprint() != base.weights_fingerprint() {
                return Err(EngineError::OtherBase {
                    path: vector.path().to_path_buf(),
                    found: theirs.fingerprint().to_owned(),
                    wanted: base.weights_fingerprint().to_owned(),
                });
            }
        }
        let plan = Arc::new(MergePlan::new(coefficients, &base.weights.layout, vectors.len())?);
        let mut engine =
            Self { decoder: Decoder::new(&base.weights), base, vectors, plan, dtype, point: Vec::new() };
        engine.merge(&vec![0.0; coefficients.len()])?;
        Ok(engine)
    }

    /// The base model.
    pub fn base(&self) -> &BaseModel {
        &self.base
    }

    /// Merges a point: `cast(base + Σ cᵢ·AVᵢ)`, one value per coefficient. The previous point leaves no trace.
    ///
    /// # Errors
    /// [`EngineError::PointLength`] or [`EngineError::PointValue`]; the previous point then stays.
    pub fn merge(&mut self, point: &[f64]) -> Result<(), EngineError> {
        self.point = self.plan.checked_point(point)?;
        self.decoder.fill(&MergingSource {
            base: &self.base.weights,
            vectors: &self.vectors,
            plan: &self.plan,
            point: &self.point,
            dtype: self.dtype,
        });
        Ok(())
    }

    /// Renders, tokenises and plans queries for scoring, once for all points. Items that cannot be scored are
    /// reported with every point's results, and by [`PreparedScores::failures`].
    pub fn prepare_scores(&self, items: &[ScoreItem]) -> PreparedScores {
        self.base.prepare_scores(items)
    }

    /// Renders and tokenises prompts for generation, once for all points.
    pub fn prepare_prompts(&self, items: &[PromptItem]) -> PreparedPrompts {
        PreparedPrompts::new(&self.base, items)
    }

    /// Scores every reference of every query under the present point's model; one result per item, in order.
    ///
    /// # Errors
    /// [`EngineError::OtherModel`] when the items were prepared for another base.
    pub fn score(
        &self,
        prepared: &PreparedScores,
    ) -> Result<Vec<Result<Vec<ReferenceScore>, ItemError>>, EngineError> {
        self.check_model(&prepared.model)?;
        Ok(score(&self.decoder, prepared))
    }

    /// Answers every prompt with the present point's model; one result per item, in order.
    ///
    /// # Errors
    /// [`EngineError::Setting`], or [`EngineError::OtherModel`] when the prompts were prepared for another base.
    pub fn generate(
        &self,
        prepared: &PreparedPrompts,
        settings: &Sampling,
    ) -> Result<Vec<Result<Generation, ItemError>>, EngineError> {
        settings.check()?;
        self.check_model(&prepared.model)?;
        Ok(generate(&self.base, &self.decoder, prepared, settings))
    }

    /// The present point's weights for candle, merged tensor by tensor as they are asked for: any architecture that
    /// candle builds from a `VarBuilder` runs on a point this way, on any of its devices.
    pub fn var_builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        let source = CandleSource {
            base: Arc::clone(&self.base.weights),
            vectors: self.vectors.clone(),
            plan: Arc::clone(&self.plan),
            point: self.point.clone(),
            dtype: self.dtype,
        };
        VarBuilder::from_backend(Box::new(source), dtype, device.clone())
    }

    /// Fills `bytes` with a tensor of the present point's model: little-endian elements of the sweep's type, row-major.
    /// One parallel pass over base and vectors; what the buffer held is replaced, its memory used again.
    ///
    /// # Errors
    /// [`EngineError::NoTensor`].
    pub fn merged_tensor(&self, name: &str, bytes: &mut Vec<u8>) -> Result<(), EngineError> {
        let layout = &self.base.weights.layout;
        let index = layout.tensors.iter().position(|spec| spec.name == name);
        let index = index.ok_or_else(|| EngineError::NoTensor {
            tensor: name.to_owned(),
            example: layout.example().to_owned(),
        })?;
        let stored = self.dtype.stored();
        bytes.resize(self.base.weights.tensors[index].len() * stored.size(), 0);
        let source = self.source();
        bytes.par_chunks_mut(PART * stored.size()).enumerate().for_each(|(part, bytes)| {
            source.write(index, part * PART, stored, bytes);
        });
        Ok(())
    }

    fn source(&self) -> MergingSource<'_> {
        MergingSource {
            base: &self.base.weights,
            vectors: &self.vectors,
            plan: &self.plan,
            point: &self.point,
            dtype: self.dtype,
        }
    }

    /// The tokens that a conversation's prompt becomes.
    ///
    /// # Errors
    /// [`ItemError`] about template, tokenizer or context.
    pub fn prompt_tokens(&self, messages: &[Message]) -> Result<Vec<u32>, ItemError> {
        Ok(self.base.text.prompt(messages)?.tokens)
    }

    /// Logits after every token of one sequence, `[tokens, vocabulary]`: for comparison with other
    /// implementations, not for speed.
    ///
    /// # Errors
    /// [`ItemError::EmptyPrompt`], or [`ItemError::TooLong`] when the sequence does not fit the context.
    pub fn logits(&self, tokens: &[u32]) -> Result<Vec<Vec<f32>>, ItemError> {
        let context = self.base.config().context;
        if tokens.is_empty() {
            return Err(ItemError::EmptyPrompt);
        }
        if tokens.len() > context {
            return Err(ItemError::TooLong {
                what: "the sequence".to_owned(),
                tokens: tokens.len(),
                context,
            });
        }
        let vocabulary = self.base.config().vocab_size;
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(ItemError::Tokenizer {
                reason: format!("token {token}, wanted one below {vocabulary}"),
            });
        }
        let mut builder = ForestBuilder::default();
        builder.insert(None, tokens);
        let (forest, _) = builder.finish();
        let every: Vec<u32> = (0..tokens.len() as u32).collect();
        let hidden = self.decoder.run(Threads::All, &forest, &every, |_, _| {});
        let logits = self.decoder.head().logits(Threads::All, &hidden);
        Ok(logits.chunks_exact(vocabulary).map(<[f32]>::to_vec).collect())
    }

    fn check_model(&self, prepared: &str) -> Result<(), EngineError> {
        if prepared == self.base.fingerprint() {
            return Ok(());
        }
        Err(EngineError::OtherModel {
            found: prepared.to_owned(),
            wanted: self.base.fingerprint().to_owned(),
        })
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Engine")
            .field("base", &self.base)
            .field("vectors", &self.vectors)
            .field("dtype", &self.dtype)
            .finish_non_exhaustive()
    }
}
