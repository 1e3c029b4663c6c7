//! How many queries fit the memory together, learnt from running out of it.

use avsweep_domain::{Fingerprint, Rung};

/// Jobs that fit in a row before twice as many queries are tried again: what took the memory may be gone.
const FITS_BEFORE_RAISING: u32 = 64;
/// From here on there is no limit.
const NO_LIMIT: usize = 1 << 16;

/// The most queries at once, by rung, for the model in use.
///
/// Results do not depend on it: a query's are the same alone and in any batch.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    recipe: Option<Fingerprint>,
    likelihood: Option<Limit>,
    generation: Option<Limit>,
}

#[derive(Debug, Clone, Copy)]
struct Limit {
    queries: usize,
    fits: u32,
}

impl Limits {
    /// The most queries of this rung that may be evaluated together.
    pub(crate) fn get(&mut self, recipe: Fingerprint, rung: Rung) -> Option<usize> {
        self.of(recipe, rung).map(|limit| limit.queries)
    }

    /// Notes that the memory ran out with this many queries; how many to try next. `None` when there is nothing to
    /// halve.
    pub(crate) fn halve(&mut self, recipe: Fingerprint, rung: Rung, together: usize) -> Option<usize> {
        let limit = self.of(recipe, rung);
        // Whatever the evaluator says, each time must bring fewer.
        let tried = limit.map_or(together, |limit| limit.queries.min(together.max(1)));
        if tried <= 1 {
            return None;
        }
        *limit = Some(Limit { queries: tried / 2, fits: 0 });
        Some(tried / 2)
    }

    /// Notes that a job fitted.
    pub(crate) fn fitted(&mut self, recipe: Fingerprint, rung: Rung) {
        let limit = self.of(recipe, rung);
        let Some(known) = limit else { return };
        known.fits += 1;
        if known.fits >= FITS_BEFORE_RAISING {
            *known = Limit { queries: known.queries * 2, fits: 0 };
            if known.queries >= NO_LIMIT {
                *limit = None;
            }
        }
    }

    fn of(&mut self, recipe: Fingerprint, rung: Rung) -> &mut Option<Limit> {
        if self.recipe != Some(recipe) {
            *self = Self { recipe: Some(recipe), ..Self::default() };
        }
        match rung {
            Rung::Generation => &mut self.generation,
            Rung::Likelihood | Rung::Judgement => &mut self.likelihood,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_ends_at_one_whatever_the_evaluator_says() {
        let (mut limits, recipe) = (Limits::default(), Fingerprint::of(b"model"));
        assert_eq!(limits.get(recipe, Rung::Likelihood), None);
        let halves: Vec<_> = std::iter::from_fn(|| limits.halve(recipe, Rung::Likelihood, 40)).collect();
        assert_eq!(halves, [20, 10, 5, 2, 1]);
        assert_eq!(limits.get(recipe, Rung::Likelihood), Some(1));
        assert_eq!(limits.get(recipe, Rung::Generation), None);
    }

    #[test]
    fn a_limit_is_raised_slowly_and_forgotten_with_the_model() {
        let (mut limits, recipe) = (Limits::default(), Fingerprint::of(b"model"));
        limits.halve(recipe, Rung::Generation, 16);
        for _ in 0..FITS_BEFORE_RAISING - 1 {
            limits.fitted(recipe, Rung::Generation);
        }
        assert_eq!(limits.get(recipe, Rung::Generation), Some(8));
        limits.fitted(recipe, Rung::Generation);
        assert_eq!(limits.get(recipe, Rung::Generation), Some(16));
        assert_eq!(limits.get(Fingerprint::of(b"other"), Rung::Generation), None);
    }
}
