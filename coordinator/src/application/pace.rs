//! How fast a watched sweep goes.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Less time than this says nothing about a rate.
const SHORTEST: Duration = Duration::from_secs(1);

/// Points done over the last span of time.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    window: Duration,
    /// Looks at the count, oldest first; the first is the youngest one at least a window old, if there is one.
    looks: VecDeque<(Instant, u64)>,
}

impl Pace {
    /// Measures over a window, or over what there is until that has passed.
    pub(crate) fn over(window: Duration) -> Self {
        Self { window, looks: VecDeque::new() }
    }

    /// At this time so many points were done.
    pub(crate) fn look(&mut self, at: Instant, done: u64) {
        if self.looks.back().is_some_and(|(_, last)| done < *last) {
            // Jobs were taken up again: what was before tells nothing.
            self.looks.clear();
        }
        self.looks.push_back((at, done));
        while self.looks.get(1).is_some_and(|(second, _)| at - *second >= self.window) {
            self.looks.pop_front();
        }
    }

    /// Points per second; `None` until there is something to say.
    pub(crate) fn per_second(&self) -> Option<f64> {
        let ((first, before), (last, done)) = (self.looks.front()?, self.looks.back()?);
        let span = *last - *first;
        (span >= SHORTEST).then(|| (done - before) as f64 / span.as_secs_f64())
    }

    /// Seconds until so many points are done, if it goes on like this; `None` when that cannot be said.
    pub(crate) fn seconds_left(&self, planned: Option<u64>) -> Option<u64> {
        let (_, done) = self.looks.back()?;
        let left = planned?.saturating_sub(*done);
        let rate = self.per_second().filter(|rate| *rate > 0.0)?;
        // Saturates; a rate that low is as good as none.
        Some((left as f64 / rate).ceil() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(looks: &[(u64, u64)]) -> Pace {
        let start = Instant::now();
        let mut pace = Pace::over(Duration::from_secs(60));
        for (seconds, done) in looks {
            pace.look(start + Duration::from_secs(*seconds), *done);
        }
        pace
    }

    #[test]
    fn one_look_says_nothing() {
        assert_eq!(pace(&[]).per_second(), None);
        assert_eq!((pace(&[(0, 5)]).per_second(), pace(&[(0, 5)]).seconds_left(Some(9))), (None, None));
    }

    #[test]
    fn the_rate_is_that_of_the_window_alone() {
        let mut looks: Vec<_> = (0..100).map(|second| (second, 2 * second)).collect();
        assert_eq!(pace(&looks).per_second(), Some(2.0));
        // A minute at a point each ten seconds: the fast start is forgotten.
        looks.extend((10..=17).map(|tens| (tens * 10, 198 + tens - 9)));
        let slow = pace(&looks);
        assert!(slow.per_second().is_some_and(|rate| (0.09..0.13).contains(&rate)), "{slow:?}");
    }

    #[test]
    fn the_time_left_follows_from_the_rate_and_rounds_up() {
        let pace = pace(&[(0, 10), (10, 30)]);
        assert_eq!((pace.per_second(), pace.seconds_left(Some(131))), (Some(2.0), Some(51)));
        assert_eq!(pace.seconds_left(Some(30)), Some(0));
        assert_eq!(pace.seconds_left(None), None);
    }

    #[test]
    fn a_sweep_that_stands_still_has_a_rate_of_zero_and_no_end() {
        let pace = pace(&[(0, 10), (10, 10)]);
        assert_eq!((pace.per_second(), pace.seconds_left(Some(20))), (Some(0.0), None));
    }

    #[test]
    fn jobs_taken_up_again_start_it_anew() {
        let pace = pace(&[(0, 10), (10, 30), (20, 25)]);
        assert_eq!(pace.per_second(), None);
    }
}
