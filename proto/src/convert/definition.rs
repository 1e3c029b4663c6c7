//! A sweep's definition.

use avsweep_domain::{
    Coefficient, Coverage, DecodeSettings, DefinitionError, DomainDefinition, Dtype, Evaluation,
    JudgeProvider, JudgeSettings, Ladder, Levels, Message, ModelSource, Query, Racing, Range, Role, Space,
    SweepDefinition, VectorSource,
};

use super::word::{fingerprint, ticks};
use super::{all, required, wire_enum};
use crate::{ConvertError, WireEnum as _, v1};

wire_enum!(Dtype, Dtype, {
    F32 = (Dtype::F32),
    Bf16 = (Dtype::Bf16),
    F16 = (Dtype::F16),
});

wire_enum!(Role, Role, {
    System = (Role::System),
    User = (Role::User),
    Assistant = (Role::Assistant),
});

wire_enum!(Coverage, Coverage, {
    None = (Coverage::None),
    Finalists = (Coverage::Finalists),
    All = (Coverage::All),
});

impl From<&ModelSource> for v1::ModelSource {
    fn from(model: &ModelSource) -> Self {
        Self {
            path: model.path.clone(),
            dtype: v1::Dtype::from(model.dtype).into(),
            fingerprint: model.fingerprint.as_bytes().to_vec(),
        }
    }
}

impl TryFrom<v1::ModelSource> for ModelSource {
    type Error = ConvertError;

    fn try_from(wire: v1::ModelSource) -> Result<Self, ConvertError> {
        Ok(Self {
            dtype: v1::Dtype::read("ModelSource", "dtype", wire.dtype)?,
            fingerprint: fingerprint("ModelSource", "fingerprint", &wire.fingerprint)?,
            path: wire.path,
        })
    }
}

impl From<&VectorSource> for v1::VectorSource {
    fn from(vector: &VectorSource) -> Self {
        Self {
            name: vector.name.clone(),
            path: vector.path.clone(),
            fingerprint: vector.fingerprint.as_bytes().to_vec(),
        }
    }
}

impl TryFrom<v1::VectorSource> for VectorSource {
    type Error = ConvertError;

    fn try_from(wire: v1::VectorSource) -> Result<Self, ConvertError> {
        Ok(Self {
            fingerprint: fingerprint("VectorSource", "fingerprint", &wire.fingerprint)?,
            name: wire.name,
            path: wire.path,
        })
    }
}

impl From<&Coefficient> for v1::Coefficient {
    fn from(coefficient: &Coefficient) -> Self {
        Self {
            name: coefficient.name.clone(),
            // A definition never has 2³² vectors; one that had would be refused as an unknown vector.
            vector: u32::try_from(coefficient.vector).unwrap_or(u32::MAX),
            tensors: coefficient
                .tensors
                .as_ref()
                .map(|patterns| v1::TensorPatterns { patterns: patterns.clone() }),
            min_ticks: coefficient.range.min().get(),
            max_ticks: coefficient.range.max().get(),
            step_ticks: coefficient.range.step().get(),
        }
    }
}

impl TryFrom<v1::Coefficient> for Coefficient {
    type Error = ConvertError;

    fn try_from(wire: v1::Coefficient) -> Result<Self, ConvertError> {
        let range = Range::new(
            ticks("Coefficient", "min_ticks", wire.min_ticks)?,
            ticks("Coefficient", "max_ticks", wire.max_ticks)?,
            ticks("Coefficient", "step_ticks", wire.step_ticks)?,
        );
        Ok(Self {
            range: range.map_err(|source| ConvertError::Range { coefficient: wire.name.clone(), source })?,
            name: wire.name,
            vector: wire.vector as usize,
            tensors: wire.tensors.map(|tensors| tensors.patterns),
        })
    }
}

impl From<&Message> for v1::Message {
    fn from(message: &Message) -> Self {
        Self { role: v1::Role::from(message.role).into(), content: message.content.clone() }
    }
}

impl TryFrom<v1::Message> for Message {
    type Error = ConvertError;

    fn try_from(wire: v1::Message) -> Result<Self, ConvertError> {
        Ok(Self { role: v1::Role::read("Message", "role", wire.role)?, content: wire.content })
    }
}

impl From<&Query> for v1::Query {
    fn from(query: &Query) -> Self {
        Self {
            id: query.id.clone(),
            messages: query.messages.iter().map(Into::into).collect(),
            references: query.references.clone(),
        }
    }
}

impl TryFrom<v1::Query> for Query {
    type Error = ConvertError;

    fn try_from(wire: v1::Query) -> Result<Self, ConvertError> {
        Ok(Self { id: wire.id, messages: all(wire.messages)?, references: wire.references })
    }
}

impl From<&DomainDefinition> for v1::Domain {
    fn from(domain: &DomainDefinition) -> Self {
        Self {
            name: domain.name.clone(),
            search: domain.search.iter().map(Into::into).collect(),
            confirm: domain.confirm.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Domain> for DomainDefinition {
    type Error = ConvertError;

    fn try_from(wire: v1::Domain) -> Result<Self, ConvertError> {
        Ok(Self { name: wire.name, search: all(wire.search)?, confirm: all(wire.confirm)? })
    }
}

impl From<&Evaluation> for v1::Evaluation {
    fn from(evaluation: &Evaluation) -> Self {
        Self {
            likelihood: v1::Coverage::from(evaluation.likelihood).into(),
            generation: v1::Coverage::from(evaluation.generation).into(),
            finalists_per_target: evaluation.finalists_per_target,
            max_new_tokens: evaluation.decode.max_new_tokens,
            temperature: evaluation.decode.temperature,
            top_p: evaluation.decode.top_p,
            seed: evaluation.decode.seed,
            stop: evaluation.decode.stop.clone(),
            racing: evaluation.racing.map(|racing| v1::Racing {
                block: racing.block,
                error: racing.error,
                seed: racing.seed,
            }),
            ladder: evaluation
                .ladder
                .map(|ladder| v1::Ladder { confidence: ladder.confidence, most: ladder.most }),
        }
    }
}

impl TryFrom<v1::Evaluation> for Evaluation {
    type Error = ConvertError;

    fn try_from(wire: v1::Evaluation) -> Result<Self, ConvertError> {
        Ok(Self {
            likelihood: v1::Coverage::read("Evaluation", "likelihood", wire.likelihood)?,
            generation: v1::Coverage::read("Evaluation", "generation", wire.generation)?,
            finalists_per_target: wire.finalists_per_target,
            decode: DecodeSettings {
                max_new_tokens: wire.max_new_tokens,
                temperature: wire.temperature,
                top_p: wire.top_p,
                seed: wire.seed,
                stop: wire.stop,
            },
            racing: wire.racing.map(|racing| Racing {
                block: racing.block,
                error: racing.error,
                seed: racing.seed,
            }),
            ladder: wire.ladder.map(|ladder| Ladder { confidence: ladder.confidence, most: ladder.most }),
        })
    }
}

impl From<&JudgeSettings> for v1::JudgeSettings {
    fn from(settings: &JudgeSettings) -> Self {
        use v1::judge_settings::Provider;
        let provider = match &settings.provider {
            JudgeProvider::Reference { threshold } => {
                Provider::Reference(v1::ReferenceJudge { threshold: *threshold })
            }
            JudgeProvider::Openai {
                base_url,
                model,
                api_key_env,
                concurrency,
                timeout_seconds,
                max_attempts,
            } => Provider::Openai(v1::OpenaiJudge {
                base_url: base_url.clone(),
                model: model.clone(),
                api_key_env: api_key_env.clone(),
                concurrency: *concurrency,
                timeout_seconds: *timeout_seconds,
                max_attempts: *max_attempts,
            }),
        };
        Self { provider: Some(provider), rubric: settings.rubric.clone() }
    }
}

impl TryFrom<v1::JudgeSettings> for JudgeSettings {
    type Error = ConvertError;

    fn try_from(wire: v1::JudgeSettings) -> Result<Self, ConvertError> {
        use v1::judge_settings::Provider;
        let provider = match required("JudgeSettings", "provider", wire.provider)? {
            Provider::Reference(reference) => JudgeProvider::Reference { threshold: reference.threshold },
            Provider::Openai(openai) => JudgeProvider::Openai {
                base_url: openai.base_url,
                model: openai.model,
                api_key_env: openai.api_key_env,
                concurrency: openai.concurrency,
                timeout_seconds: openai.timeout_seconds,
                max_attempts: openai.max_attempts,
            },
        };
        Ok(Self { provider, rubric: wire.rubric })
    }
}

impl From<&SweepDefinition> for v1::SweepDefinition {
    fn from(definition: &SweepDefinition) -> Self {
        Self {
            name: definition.name.clone(),
            model: Some((&definition.model).into()),
            vectors: definition.vectors.iter().map(Into::into).collect(),
            coefficients: definition.space.coefficients().iter().map(Into::into).collect(),
            levels: definition.levels.names().to_vec(),
            domains: definition.domains.iter().map(Into::into).collect(),
            strategy: Some((&definition.strategy).into()),
            evaluation: Some((&definition.evaluation).into()),
            judge: Some((&definition.judge).into()),
        }
    }
}

/// The result has passed [`SweepDefinition::check`].
impl TryFrom<v1::SweepDefinition> for SweepDefinition {
    type Error = ConvertError;

    fn try_from(wire: v1::SweepDefinition) -> Result<Self, ConvertError> {
        let message = "SweepDefinition";
        let definition = Self {
            name: wire.name,
            model: required(message, "model", wire.model)?.try_into()?,
            vectors: all(wire.vectors)?,
            space: Space::new(all(wire.coefficients)?).map_err(DefinitionError::from)?,
            levels: Levels::new(wire.levels).map_err(DefinitionError::from)?,
            domains: all(wire.domains)?,
            strategy: required(message, "strategy", wire.strategy)?.try_into()?,
            evaluation: required(message, "evaluation", wire.evaluation)?.try_into()?,
            judge: required(message, "judge", wire.judge)?.try_into()?,
        };
        definition.check()?;
        Ok(definition)
    }
}

#[cfg(test)]
mod tests;
