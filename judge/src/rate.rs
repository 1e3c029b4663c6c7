//! The seam behind which verdicts are made: an LLM's API, the embedded reference, or something made up.

use std::fmt::Debug;

use async_trait::async_trait;
use avsweep_domain::{Levels, Query, Response, Verdict};

use crate::error::JudgeError;
use crate::meter::Meter;

/// Rates one response at a time.
#[async_trait]
pub trait Rate: Debug + Send + Sync {
    /// The verdict on a response to a query, whose references follow the levels. What it takes goes on the meter.
    ///
    /// # Errors
    /// When there is no verdict after all attempts.
    async fn rate(
        &self,
        levels: &Levels,
        query: &Query,
        response: &Response,
        meter: &Meter,
    ) -> Result<Verdict, JudgeError>;
}
