//! From a sweep file to a checked definition: queries read, model files opened and fingerprinted.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use avsweep_domain::{
    Coefficient, Coverage, DecodeSettings, DomainDefinition, Dtype, Evaluation, JudgeProvider, JudgeSettings,
    Ladder, Levels, ModelSource, Query, Racing, Range, Space, SweepDefinition, Ticks, VectorSource,
    nearest_name,
};
use avsweep_engine::{AlignmentVector, BaseModel, Message, ScoreItem, check_coefficients};
use avsweep_files::ModelFiles;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::raw::{
    RawCoefficient, RawCoverage, RawDomain, RawDtype, RawJudge, RawPatterns, RawProvider, RawSweep,
};
use super::{check, queries, strategy};

/// A sweep file whose definition has been held against its model.
#[derive(Debug)]
pub(crate) struct LoadedSweep {
    /// The definition.
    pub definition: SweepDefinition,
    /// Queries that the file has beyond those that are used, per domain name.
    pub unused_queries: Vec<(String, usize)>,
    /// Vectors that change nothing: name and file.
    pub zero_vectors: Vec<(String, String)>,
}

impl LoadedSweep {
    /// What a person should know of a sweep file that is fine.
    pub(crate) fn notes(&self) -> Vec<String> {
        let unused = self
            .unused_queries
            .iter()
            .map(|(domain, unused)| format!("note: {unused} queries of domain {domain} are not used"));
        let zero = self.zero_vectors.iter().map(|(name, path)| {
            format!(
                "warning: vectors.{name}: {path} is zero in every element: its coefficients change nothing, and every \
                 point along them is evaluated all the same (was it made from the base itself, or not trained?)"
            )
        });
        unused.chain(zero).collect()
    }
}

/// Reads and checks a sweep file and everything it names. No model is run. Model files of object storage are brought
/// into `cache` first.
///
/// # Errors
/// Names the file, field or tensor, the value found and the value wanted.
pub(crate) async fn load(path: &Path, cache: &Path) -> Result<LoadedSweep> {
    let origin = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{origin}: cannot be read (a sweep's file is wanted here, not its name)"))?;
    let raw = check::parse(&text, &origin)?;
    let folder = std::path::absolute(path)
        .with_context(|| format!("{origin}: has no absolute path"))?
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default();
    Loader { origin: &origin, folder, files: ModelFiles::new(cache.to_path_buf()) }.load(raw).await
}

/// The name that a sweep file gives its sweep, without reading anything else.
///
/// # Errors
/// When the file cannot be read or is no sweep file.
pub(crate) fn name_in(path: &Path) -> Result<String> {
    let origin = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| format!("{origin}: cannot be read"))?;
    Ok(check::parse(&text, &origin)?.name)
}

struct Loader<'a> {
    origin: &'a str,
    folder: PathBuf,
    files: ModelFiles,
}

/// A model file as the definition names it, and where it lies here.
struct Located {
    location: String,
    path: PathBuf,
}

impl Loader<'_> {
    async fn load(&self, raw: RawSweep) -> Result<LoadedSweep> {
        let levels = match raw.levels {
            Some(names) => Levels::new(names).with_context(|| format!("{}: levels", self.origin))?,
            None => Levels::default(),
        };
        let mut vectors = Vec::new();
        for (name, location) in entries::<String>(raw.vectors)? {
            let located = self.locate(&format!("vectors.{name}"), &location)?;
            vectors.push((name, located));
        }
        ensure!(!vectors.is_empty(), "{}: vectors: at least one is wanted", self.origin);
        let space = self.space(raw.coefficients, &vectors)?;
        let (domains, unused_queries) = self.domains(
            raw.domains,
            &levels,
            raw.evaluation.search_queries,
            raw.evaluation.confirm_queries,
        )?;
        let dtype = match raw.model.dtype {
            RawDtype::F32 => Dtype::F32,
            RawDtype::Bf16 => Dtype::Bf16,
            RawDtype::F16 => Dtype::F16,
        };
        let mut base = self.locate("model.base", &raw.model.base)?;
        let domain_names: Vec<_> = domains.iter().map(|domain| domain.name.as_str()).collect();
        let strategy = strategy::strategy(&raw.strategy.unwrap_or_default(), &domain_names, &levels)
            .with_context(|| format!("{}: strategy", self.origin))?;
        let evaluation = Evaluation {
            likelihood: coverage(raw.evaluation.likelihood.unwrap_or(RawCoverage::All)),
            generation: coverage(raw.evaluation.generation.unwrap_or(RawCoverage::Finalists)),
            finalists_per_target: raw.evaluation.finalists_per_target.unwrap_or(1),
            decode: DecodeSettings {
                max_new_tokens: raw.evaluation.max_new_tokens.unwrap_or(64),
                temperature: raw.evaluation.temperature.unwrap_or(0.0),
                top_p: raw.evaluation.top_p.unwrap_or(1.0),
                seed: raw.evaluation.seed.unwrap_or(0),
                stop: raw.evaluation.stop.unwrap_or_default(),
            },
            ladder: raw.evaluation.ladder.map(|ladder| Ladder {
                confidence: ladder.confidence.unwrap_or(0.9),
                most: ladder.most.unwrap_or(200),
            }),
            racing: raw.evaluation.racing.map(|racing| Racing {
                block: racing.block.unwrap_or(10),
                error: racing.error.unwrap_or(0.01),
                seed: racing.seed.unwrap_or(0),
            }),
        };
        let judge = judge(raw.judge).with_context(|| format!("{}: judge", self.origin))?;

        // Everything cheap is checked before weights are read.
        let placeholder = avsweep_domain::Fingerprint::from_bytes([0; 32]);
        let mut definition = SweepDefinition {
            name: raw.name,
            model: ModelSource { path: base.location.clone(), dtype, fingerprint: placeholder },
            vectors: vectors
                .iter()
                .map(|(name, located)| VectorSource {
                    name: name.clone(),
                    path: located.location.clone(),
                    fingerprint: placeholder,
                })
                .collect(),
            space,
            levels,
            domains,
            strategy,
            evaluation,
            judge,
        };
        definition.check().with_context(|| self.origin.to_owned())?;

        self.fetch("model.base", &mut base).await?;
        for (name, located) in &mut vectors {
            self.fetch(&format!("vectors.{name}"), located).await?;
        }
        let base = BaseModel::open(&base.path).with_context(|| format!("{}: model.base", self.origin))?;
        self.check_queries(&definition, &base)?;
        definition.model.fingerprint = base.fingerprint().parse().context("the base's fingerprint")?;
        let mut zero_vectors = Vec::new();
        for (source, (name, located)) in definition.vectors.iter_mut().zip(&vectors) {
            let vector = AlignmentVector::open(&located.path, &base)
                .with_context(|| format!("{}: vectors.{name}", self.origin))?;
            source.fingerprint = vector.fingerprint().parse().context("the vector's fingerprint")?;
            if vector.is_zero() {
                zero_vectors.push((name.clone(), located.location.clone()));
            }
        }
        let coefficients: Vec<_> = definition
            .space
            .coefficients()
            .iter()
            .map(|coefficient| avsweep_engine::Coefficient {
                name: coefficient.name.clone(),
                vector: coefficient.vector,
                tensors: coefficient.tensors.clone(),
            })
            .collect();
        check_coefficients(&coefficients, &base, vectors.len())
            .with_context(|| format!("{}: coefficients", self.origin))?;
        Ok(LoadedSweep { definition, unused_queries, zero_vectors })
    }

    /// Renders and tokenises every query, so that one which the model cannot take is told before any job fails on it.
    fn check_queries(&self, definition: &SweepDefinition, base: &BaseModel) -> Result<()> {
        let entries: Vec<_> = definition.queries().collect();
        let items: Vec<ScoreItem> = entries
            .iter()
            .map(|entry| ScoreItem {
                messages: entry
                    .query
                    .messages
                    .iter()
                    .map(|message| Message::new(message.role.as_str(), &message.content))
                    .collect(),
                references: entry.query.references.clone(),
            })
            .collect();
        let prepared = base.prepare_scores(&items);
        if let Some((index, error)) = prepared.failures().next() {
            let entry = &entries[index];
            return Err(anyhow::Error::new(error.clone()).context(format!(
                "{}: domains.{}.queries: query '{}'",
                self.origin, definition.domains[entry.domain].name, entry.query.id
            )));
        }
        Ok(())
    }

    fn space(&self, raw: Map<String, Value>, vectors: &[(String, Located)]) -> Result<Space> {
        let coefficients = entries::<RawCoefficient>(raw)?
            .into_iter()
            .map(|(name, raw)| {
                let place = format!("{}: coefficients.{name}", self.origin);
                let vector =
                    vectors.iter().position(|(known, _)| *known == raw.vector).with_context(|| {
                        let known: Vec<_> = vectors.iter().map(|(name, _)| name.as_str()).collect();
                        let hint = nearest_name(&raw.vector, known.iter().copied())
                            .map_or_else(String::new, |near| format!(" (did you mean '{near}'?)"));
                        format!(
                            "{place}.vector: '{}' is none of the vectors {}{hint}",
                            raw.vector,
                            known.join(", ")
                        )
                    })?;
                let ticks = |field: &str, value: f64| {
                    Ticks::from_f64(value).with_context(|| format!("{place}.{field}"))
                };
                let range =
                    Range::new(ticks("min", raw.min)?, ticks("max", raw.max)?, ticks("step", raw.step)?)
                        .with_context(|| place.clone())?;
                let tensors = raw.tensors.map(|patterns| match patterns {
                    RawPatterns::One(pattern) => vec![pattern],
                    RawPatterns::Several(patterns) => patterns,
                });
                ensure!(
                    tensors.as_ref().is_none_or(|patterns| !patterns.is_empty()),
                    "{place}.tensors: the list is empty; leave it out to act on all tensors"
                );
                Ok(Coefficient { name, vector, tensors, range })
            })
            .collect::<Result<_>>()?;
        Space::new(coefficients).with_context(|| format!("{}: coefficients", self.origin))
    }

    fn domains(
        &self,
        raw: Map<String, Value>,
        levels: &Levels,
        search: Option<u32>,
        confirm: Option<u32>,
    ) -> Result<(Vec<DomainDefinition>, Vec<(String, usize)>)> {
        let mut unused = Vec::new();
        let domains = entries::<RawDomain>(raw)?
            .into_iter()
            .map(|(name, raw)| {
                let place = format!("{}: domains.{name}.queries", self.origin);
                let path = self.existing(&format!("domains.{name}.queries"), &raw.queries)?;
                let mut queries = queries::read(&path, levels).with_context(|| place.clone())?;
                let found = queries.len();
                let (search, confirm) = split(found, search, confirm).with_context(|| place.clone())?;
                if search + confirm < found {
                    unused.push((name.clone(), found - search - confirm));
                }
                queries.truncate(search + confirm);
                let confirm: Vec<Query> = queries.split_off(search);
                Ok(DomainDefinition { name, search: queries, confirm })
            })
            .collect::<Result<_>>()?;
        Ok((domains, unused))
    }

    /// A model file or folder: a path, which must exist, or a place in object storage.
    fn locate(&self, field: &str, location: &str) -> Result<Located> {
        if avsweep_files::is_remote(location) {
            return Ok(Located { location: location.to_owned(), path: PathBuf::new() });
        }
        let path = self.existing(field, location)?;
        Ok(Located { location: text_of(&path)?, path })
    }

    /// Brings a model file of object storage here.
    async fn fetch(&self, field: &str, located: &mut Located) -> Result<()> {
        if avsweep_files::is_remote(&located.location) {
            located.path = self
                .files
                .fetch(&located.location)
                .await
                .with_context(|| format!("{}: {field}", self.origin))?;
        }
        Ok(())
    }

    /// The path a field names, absolute; it must exist.
    fn existing(&self, field: &str, path: &str) -> Result<PathBuf> {
        let absolute = self.folder.join(path);
        match absolute.try_exists() {
            Ok(true) => Ok(absolute),
            Ok(false) => bail!("{}: {field}: {} does not exist", self.origin, absolute.display()),
            Err(error) => Err(error)
                .with_context(|| format!("{}: {field}: {} cannot be read", self.origin, absolute.display())),
        }
    }
}

/// How many of a domain's queries are search and confirm queries.
///
/// Neither given: two thirds and the rest. One given: the rest is the other's.
fn split(found: usize, search: Option<u32>, confirm: Option<u32>) -> Result<(usize, usize)> {
    let (search, confirm) = (search.map(|n| n as usize), confirm.map(|n| n as usize));
    let (search, confirm) = match (search, confirm) {
        (None, None) => {
            let search = (found * 2).div_ceil(3);
            (search, found - search)
        }
        (Some(search), None) => (search, found.saturating_sub(search)),
        (None, Some(confirm)) => (found.saturating_sub(confirm), confirm),
        (Some(search), Some(confirm)) => (search, confirm),
    };
    ensure!(
        search >= 1 && search + confirm <= found,
        "{found} queries found; search_queries {search} + confirm_queries {confirm} are wanted (search at least 1)"
    );
    Ok((search, confirm))
}

fn coverage(raw: RawCoverage) -> Coverage {
    match raw {
        RawCoverage::None => Coverage::None,
        RawCoverage::Finalists => Coverage::Finalists,
        RawCoverage::All => Coverage::All,
    }
}

fn judge(raw: RawJudge) -> Result<JudgeSettings> {
    let rubric = raw.rubric.clone().unwrap_or_else(|| avsweep_judge::DEFAULT_RUBRIC.to_owned());
    let provider = match raw.provider {
        RawProvider::Reference => {
            let foreign = [
                ("base_url", raw.base_url.is_some()),
                ("model", raw.model.is_some()),
                ("api_key_env", raw.api_key_env.is_some()),
                ("concurrency", raw.concurrency.is_some()),
                ("timeout_seconds", raw.timeout_seconds.is_some()),
                ("max_attempts", raw.max_attempts.is_some()),
                ("rubric", raw.rubric.is_some()),
            ];
            if let Some((key, _)) = foreign.iter().find(|(_, given)| *given) {
                bail!("'{key}' belongs to provider openai; the provider is reference");
            }
            JudgeProvider::Reference { threshold: raw.threshold.unwrap_or(avsweep_judge::DEFAULT_THRESHOLD) }
        }
        RawProvider::Openai => {
            ensure!(
                raw.threshold.is_none(),
                "'threshold' belongs to provider reference; the provider is openai"
            );
            let api_key_env = raw.api_key_env.unwrap_or_else(|| "OPENAI_API_KEY".to_owned());
            JudgeProvider::Openai {
                base_url: raw.base_url.unwrap_or_else(|| "https://api.openai.com/v1".to_owned()),
                model: raw.model.context("'model' is missing: provider openai needs the model's name")?,
                api_key_env: (!api_key_env.is_empty()).then_some(api_key_env),
                concurrency: raw.concurrency.unwrap_or(8),
                timeout_seconds: raw.timeout_seconds.unwrap_or(60),
                max_attempts: raw.max_attempts.unwrap_or(6),
            }
        }
    };
    Ok(JudgeSettings { provider, rubric })
}

/// A map's entries in the file's order.
fn entries<T: DeserializeOwned>(map: Map<String, Value>) -> Result<Vec<(String, T)>> {
    map.into_iter()
        .map(|(name, value)| {
            let parsed = serde_json::from_value(value).with_context(|| name.clone())?;
            Ok((name, parsed))
        })
        .collect()
}

fn text_of(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .with_context(|| format!("{}: the path is not valid UTF-8", path.display()))
}
