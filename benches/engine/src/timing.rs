//! Medians of rounds that take turns.

use std::time::Instant;

/// Runs every task once per round, one after the other, and returns each one's median seconds. A machine that is slow
/// for a while is so for all of them. One round before them does not count.
pub(crate) fn interleaved(rounds: usize, tasks: &mut [Box<dyn FnMut() + '_>]) -> Vec<f64> {
    let mut seconds = vec![Vec::with_capacity(rounds); tasks.len()];
    for round in 0..=rounds {
        for (task, seconds) in tasks.iter_mut().zip(&mut seconds) {
            let started = Instant::now();
            task();
            if round > 0 {
                seconds.push(started.elapsed().as_secs_f64());
            }
        }
    }
    seconds.into_iter().map(median).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}
