//! A judge: a provider behind a cache.

use std::env::VarError;
use std::sync::Arc;
use std::time::Duration;

use avsweep_domain::{
    Fingerprint, FingerprintBuilder, JudgeProvider, JudgeSettings, Levels, Query, Response, Verdict,
};
use avsweep_lease::Backoff;

use crate::cache::VerdictCache;
use crate::error::JudgeError;
use crate::meter::Meter;
use crate::openai::{OpenaiJudge, OpenaiSettings};
use crate::rate::Rate;
use crate::reference::ReferenceJudge;

/// What a judge's process decides, as against what a sweep's settings say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JudgeOptions {
    /// Waits between the attempts on one response.
    pub backoff: Backoff,
    /// The longest wait that an endpoint may ask for by `Retry-After`; a longer one is an error at once.
    pub longest_retry_after: Duration,
    /// The longest reply that is read, in bytes.
    pub max_reply_bytes: usize,
    /// Verdicts kept in memory.
    pub cache_entries: usize,
}

impl Default for JudgeOptions {
    fn default() -> Self {
        Self {
            backoff: Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(30) },
            longest_retry_after: Duration::from_secs(300),
            max_reply_bytes: 256 * 1024,
            cache_entries: 65_536,
        }
    }
}

#[derive(Debug)]
enum Provider {
    Reference(ReferenceJudge),
    /// Boxed for its size.
    Openai(Box<OpenaiJudge>),
    /// In place of the one that the settings name.
    MadeUp(Arc<dyn Rate>),
}

/// Rates responses, one at a time, never told the target. Cheap to clone; clones share cache and limits.
#[derive(Clone, Debug)]
pub struct Judge {
    shared: Arc<Shared>,
    cache: Arc<VerdictCache>,
    /// What all of this judge's verdicts depend on besides query and response.
    prompt: Fingerprint,
    meter: Arc<Meter>,
}

#[derive(Debug)]
struct Shared {
    provider: Provider,
    levels: Levels,
}

impl Judge {
    /// A judge with the default options and the process's environment. Nothing is sent.
    ///
    /// # Errors
    /// When the endpoint's address is unusable or the key is absent, empty or unfit.
    pub fn new(settings: &JudgeSettings, levels: &Levels) -> Result<Self, JudgeError> {
        Self::with_options(settings, levels, &JudgeOptions::default(), |variable| std::env::var(variable))
    }

    /// A judge with these options; `environment` reads a variable, once.
    ///
    /// # Errors
    /// As [`Judge::new`].
    pub fn with_options(
        settings: &JudgeSettings,
        levels: &Levels,
        options: &JudgeOptions,
        environment: impl Fn(&str) -> Result<String, VarError>,
    ) -> Result<Self, JudgeError> {
        let (provider, prompt) = match &settings.provider {
            JudgeProvider::Reference { threshold } => {
                let mut builder = FingerprintBuilder::new("avsweep reference judge 1");
                builder.bytes(&threshold.to_le_bytes()).count(levels.len());
                for level in levels.names() {
                    builder.text(level);
                }
                (Provider::Reference(ReferenceJudge { threshold: *threshold }), builder.finish())
            }
            JudgeProvider::Openai {
                base_url,
                model,
                api_key_env,
                concurrency,
                timeout_seconds,
                max_attempts,
            } => {
                let settings_of_endpoint = OpenaiSettings {
                    base_url,
                    model,
                    api_key_env: api_key_env.as_deref(),
                    concurrency: *concurrency,
                    timeout_seconds: *timeout_seconds,
                    max_attempts: *max_attempts,
                };
                let judge =
                    OpenaiJudge::new(settings_of_endpoint, &settings.rubric, levels, options, environment)?;
                let prompt = judge.prompt_fingerprint();
                (Provider::Openai(Box::new(judge)), prompt)
            }
        };
        let shared = Arc::new(Shared { provider, levels: levels.clone() });
        Ok(Self { shared, cache: VerdictCache::new(options.cache_entries), prompt, meter: Arc::default() })
    }

    /// A judge whose verdicts come from `provider`.
    pub fn made_up(provider: Arc<dyn Rate>, levels: &Levels, options: &JudgeOptions) -> Self {
        Self {
            shared: Arc::new(Shared { provider: Provider::MadeUp(provider), levels: levels.clone() }),
            cache: VerdictCache::new(options.cache_entries),
            prompt: FingerprintBuilder::new("avsweep made-up judge 1").finish(),
            meter: Arc::default(),
        }
    }

    /// The same, counting on a meter that others share.
    pub(crate) fn metered(mut self, meter: Arc<Meter>) -> Self {
        self.meter = meter;
        self
    }

    /// The verdict on one response to one query, whose references follow the judge's levels.
    ///
    /// # Errors
    /// When the provider gave no verdict after all attempts. The embedded judge always gives one.
    pub async fn judge(&self, query: &Query, response: &Response) -> Result<Verdict, JudgeError> {
        let key = FingerprintBuilder::new("avsweep judgement 1")
            .fingerprint(&self.prompt)
            .fingerprint(&query.fingerprint())
            .text(&response.text)
            .finish();
        self.cache
            .get_or_judge(key, || {
                let (shared, query, response) = (Arc::clone(&self.shared), query.clone(), response.clone());
                let meter = Arc::clone(&self.meter);
                async move {
                    match &shared.provider {
                        Provider::Reference(judge) => {
                            // Pure computation, a few milliseconds for a long text: others get their turn between
                            // items.
                            tokio::task::yield_now().await;
                            Ok(judge.judge(&shared.levels, &query, &response))
                        }
                        Provider::Openai(judge) => {
                            judge.judge(&shared.levels, &query, &response, &meter).await
                        }
                        Provider::MadeUp(judge) => {
                            judge.rate(&shared.levels, &query, &response, &meter).await
                        }
                    }
                }
            })
            .await
    }

    /// How many verdicts came from memory, or from an identical item under way, instead of the provider.
    pub fn cache_hits(&self) -> u64 {
        self.cache.hits()
    }
}
