//! Coefficients, and which vectors they turn in which tensors.

use super::pattern::Pattern;
use crate::EngineError;
use crate::model::{BaseModel, Layout};

/// A named knob: it scales one vector, in all tensors or in some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coefficient {
    /// The name, for complaints.
    pub name: String,
    /// Index of the vector among those that the engine was given.
    pub vector: usize,
    /// Patterns of the tensors it acts on (`*`, `?`, `{a,b}`, `{0..9}` over whole names); `None` is all.
    pub tensors: Option<Vec<String>>,
}

impl Coefficient {
    /// A coefficient that acts on every tensor of a vector.
    pub fn whole(name: impl Into<String>, vector: usize) -> Self {
        Self { name: name.into(), vector, tensors: None }
    }
}

/// Checks coefficients against a model without merging anything: each refers to one of `vectors` vectors, and each
/// of its patterns matches a tensor.
///
/// # Errors
/// [`EngineError::UnknownVector`], [`EngineError::BadPattern`] or [`EngineError::UnmatchedPattern`].
pub fn check_coefficients(
    coefficients: &[Coefficient],
    base: &BaseModel,
    vectors: usize,
) -> Result<(), EngineError> {
    MergePlan::new(coefficients, &base.weights.layout, vectors).map(|_| ())
}

/// One term of the sum: a coefficient times a vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Term {
    pub(crate) coefficient: usize,
    pub(crate) vector: usize,
}

/// For every tensor of the layout the terms of its sum, in the order of the coefficients (law 1: fixed order).
#[derive(Debug)]
pub(crate) struct MergePlan {
    names: Vec<String>,
    terms: Vec<Vec<Term>>,
}

impl MergePlan {
    /// Resolves patterns against the model's tensors.
    ///
    /// # Errors
    /// [`EngineError::UnknownVector`], [`EngineError::BadPattern`] or [`EngineError::UnmatchedPattern`].
    pub(crate) fn new(
        coefficients: &[Coefficient],
        layout: &Layout,
        vectors: usize,
    ) -> Result<Self, EngineError> {
        let mut terms = vec![Vec::new(); layout.tensors.len()];
        for (index, coefficient) in coefficients.iter().enumerate() {
            if coefficient.vector >= vectors {
                return Err(EngineError::UnknownVector {
                    coefficient: coefficient.name.clone(),
                    found: coefficient.vector,
                    vectors,
                });
            }
            let term = Term { coefficient: index, vector: coefficient.vector };
            let acted_on = acted_on(coefficient, layout)?;
            for (terms, _) in terms.iter_mut().zip(acted_on).filter(|(_, acts)| *acts) {
                terms.push(term);
            }
        }
        Ok(Self { names: coefficients.iter().map(|coefficient| coefficient.name.clone()).collect(), terms })
    }

    /// The terms of one tensor's sum.
    pub(crate) fn terms(&self, tensor: usize) -> &[Term] {
        &self.terms[tensor]
    }

    /// Checks a point and brings it to the accumulation's precision.
    ///
    /// # Errors
    /// [`EngineError::PointLength`] or [`EngineError::PointValue`].
    pub(crate) fn checked_point(&self, point: &[f64]) -> Result<Vec<f32>, EngineError> {
        if point.len() != self.names.len() {
            return Err(EngineError::PointLength { found: point.len(), wanted: self.names.len() });
        }
        let convert = |(value, name): (&f64, &String)| {
            let narrow = *value as f32;
            if narrow.is_finite() {
                return Ok(narrow);
            }
            Err(EngineError::PointValue { coefficient: name.clone(), found: *value })
        };
        point.iter().zip(&self.names).map(convert).collect()
    }
}

/// For every tensor whether the coefficient acts on it.
fn acted_on(coefficient: &Coefficient, layout: &Layout) -> Result<Vec<bool>, EngineError> {
    let Some(patterns) = &coefficient.tensors else {
        return Ok(vec![true; layout.tensors.len()]);
    };
    let mut acts = vec![false; layout.tensors.len()];
    let unmatched = |pattern: &str| EngineError::UnmatchedPattern {
        coefficient: coefficient.name.clone(),
        pattern: pattern.to_owned(),
        example: layout.example().to_owned(),
    };
    if patterns.is_empty() {
        return Err(unmatched(""));
    }
    for text in patterns {
        let pattern = Pattern::parse(text).map_err(|reason| EngineError::BadPattern {
            coefficient: coefficient.name.clone(),
            pattern: text.clone(),
            reason,
        })?;
        let mut matched = false;
        for (acts, spec) in acts.iter_mut().zip(&layout.tensors) {
            if pattern.matches(&spec.name) {
                *acts = true;
                matched = true;
            }
        }
        if !matched {
            return Err(unmatched(text));
        }
    }
    Ok(acts)
}
