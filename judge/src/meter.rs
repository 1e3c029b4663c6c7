//! What judging takes: calls, errors, tokens, money.

use std::sync::atomic::{AtomicU64, Ordering};

use avsweep_proto::v1;

/// Counts of a process's judging since they were taken last.
#[derive(Debug, Default)]
pub struct Meter {
    calls: AtomicU64,
    errors: AtomicU64,
    input_tokens: AtomicU64,
    output_tokens: AtomicU64,
}

/// What an LLM costs, in US dollars per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Prices {
    /// Of the prompt.
    pub input: f64,
    /// Of the answer.
    pub output: f64,
}

impl Meter {
    /// Counts a request.
    pub fn add_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that brought no verdict.
    pub fn add_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the tokens of an answer, as the endpoint says.
    pub fn add_tokens(&self, input: u64, output: u64) {
        self.input_tokens.fetch_add(input, Ordering::Relaxed);
        self.output_tokens.fetch_add(output, Ordering::Relaxed);
    }

    /// Takes the counts, for one report; `None` when there is nothing.
    pub(crate) fn take(&self, prices: Prices) -> Option<v1::Usage> {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        let (input, output) = (take(&self.input_tokens), take(&self.output_tokens));
        let usage = v1::Usage {
            judge_calls: u32::try_from(take(&self.calls)).unwrap_or(u32::MAX),
            judge_errors: u32::try_from(take(&self.errors)).unwrap_or(u32::MAX),
            judge_input_tokens: input,
            judge_output_tokens: output,
            // Dollars per million tokens are millionths of a dollar per token.
            judge_spend_microdollars: (input as f64 * prices.input + output as f64 * prices.output).round()
                as u64,
            ..v1::Usage::default()
        };
        (usage != v1::Usage::default()).then_some(usage)
    }

    /// Puts counts back that could not be reported.
    pub(crate) fn put_back(&self, usage: &v1::Usage) {
        self.calls.fetch_add(u64::from(usage.judge_calls), Ordering::Relaxed);
        self.errors.fetch_add(u64::from(usage.judge_errors), Ordering::Relaxed);
        self.add_tokens(usage.judge_input_tokens, usage.judge_output_tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_taken_once_with_its_price_and_put_back_when_it_could_not_be_told() {
        let meter = Meter::default();
        let prices = Prices { input: 2.5, output: 10.0 };
        assert_eq!(meter.take(prices), None);
        meter.add_call();
        meter.add_call();
        meter.add_error();
        meter.add_tokens(1000, 50);
        let wanted = v1::Usage {
            judge_calls: 2,
            judge_errors: 1,
            judge_input_tokens: 1000,
            judge_output_tokens: 50,
            judge_spend_microdollars: 3000,
            ..v1::Usage::default()
        };
        let taken = meter.take(prices);
        assert_eq!(taken.as_ref(), Some(&wanted));
        assert_eq!(meter.take(prices), None);
        meter.put_back(&wanted);
        assert_eq!(meter.take(prices), taken);
    }
}
