//! `avsweep export`: every stored result, in a stable order.

mod grid;

use std::fs::File;
use std::io::{self, BufWriter, Write};

use anyhow::{Context as _, Result, bail};
use avsweep_domain::{Label, Normalisation, Point, QueryScore, Response, SweepDefinition, Verdict};
use avsweep_proto::v1;
use serde_json::{Map, Value, json};

use crate::arguments::{ExportArguments, ExportFormat};
use crate::connection::{Connection, Place, explain};
use crate::embedded::Access;
use crate::output;

/// `avsweep export`
pub(super) async fn run(place: &Place, arguments: &ExportArguments) -> Result<()> {
    let connection = Connection::open(place, Access::Read).await?;
    let (progress, definition) = connection.sweep(&arguments.sweep).await?;
    if arguments.format == ExportFormat::Grid {
        return grid::write(&connection, progress.sweep, &definition, arguments.out.as_deref()).await;
    }
    let entries: Vec<QueryInfo> = definition
        .queries()
        .map(|entry| QueryInfo {
            id: entry.query.id.clone(),
            domain: definition.domains[entry.domain].name.clone(),
            set: entry.set.as_str(),
        })
        .collect();
    let out: Box<dyn Write + Send> = match &arguments.out {
        Some(path) => {
            Box::new(File::create(path).with_context(|| format!("{}: cannot be created", path.display()))?)
        }
        None => Box::new(io::stdout()),
    };
    let mut sink = Sink::new(arguments.format, BufWriter::new(out), &definition)?;
    let mut pages = connection
        .sweeps()
        .read_results(v1::ReadResultsRequest { sweep: progress.sweep.to_string() })
        .await
        .map_err(explain)?
        .into_inner();
    let mut rows = 0u64;
    while let Some(page) = pages.message().await.map_err(explain)? {
        for row in page.rows {
            let point = Point::try_from(row.point.context("a result without its point")?)?;
            let info = entries.get(row.ordinal as usize).with_context(|| {
                format!("a result of query number {}, which the sweep lacks", row.ordinal)
            })?;
            sink.write(&point, info, read_value(row.result)?)?;
            rows += 1;
        }
    }
    sink.finish()?;
    if let Some(path) = &arguments.out {
        output::note(format!("wrote {rows} results to {}", path.display()));
    }
    if progress.points_raced > 0 {
        output::note(super::run::raced(&progress));
    }
    Ok(())
}

struct QueryInfo {
    id: String,
    domain: String,
    set: &'static str,
}

enum ResultValue {
    Score(QueryScore),
    Response(Response),
    Verdict(Verdict),
}

fn read_value(result: Option<v1::result_row::Result>) -> Result<ResultValue> {
    Ok(match result {
        Some(v1::result_row::Result::Score(row)) => ResultValue::Score(row.try_into()?),
        Some(v1::result_row::Result::Response(response)) => ResultValue::Response(response.try_into()?),
        Some(v1::result_row::Result::Verdict(verdict)) => ResultValue::Verdict(verdict.try_into()?),
        None => bail!("a result without a value"),
    })
}

/// Where rows go: CSV with fixed columns, or JSON Lines.
enum Sink<'a> {
    Csv { writer: Box<csv::Writer<BufWriter<Box<dyn Write + Send>>>>, definition: &'a SweepDefinition },
    Json { writer: BufWriter<Box<dyn Write + Send>>, definition: &'a SweepDefinition },
}

impl<'a> Sink<'a> {
    fn new(
        format: ExportFormat,
        out: BufWriter<Box<dyn Write + Send>>,
        definition: &'a SweepDefinition,
    ) -> Result<Self> {
        match format {
            ExportFormat::Json => Ok(Self::Json { writer: out, definition }),
            ExportFormat::Grid => bail!("a recorded grid has no rows"),
            ExportFormat::Csv => {
                let mut writer = csv::Writer::from_writer(out);
                let mut header: Vec<String> =
                    definition.space.coefficients().iter().map(|c| c.name.clone()).collect();
                header.extend(["domain", "set", "query", "rung", "level"].map(str::to_owned));
                for level in definition.levels.names() {
                    header.extend(
                        ["log_prob_sum", "tokens", "bytes"].map(|column| format!("{level}_{column}")),
                    );
                }
                header.extend(["text", "text_tokens", "finish", "confidence", "reason"].map(str::to_owned));
                writer.write_record(&header)?;
                Ok(Self::Csv { writer: Box::new(writer), definition })
            }
        }
    }

    fn write(&mut self, point: &Point, info: &QueryInfo, value: ResultValue) -> Result<()> {
        match self {
            Self::Csv { writer, definition } => {
                let mut record: Vec<String> = point.values().iter().map(ToString::to_string).collect();
                record.extend([info.domain.clone(), info.set.to_owned(), info.id.clone()]);
                let levels = definition.levels.len();
                match value {
                    ResultValue::Score(scores) => {
                        let level = scores.level(Normalisation::Mean);
                        record.push("likelihood".to_owned());
                        record.push(
                            level.map_or_else(String::new, |level| definition.levels.name(level).to_owned()),
                        );
                        for score in &scores.0 {
                            record.extend([
                                score.log_prob_sum.to_string(),
                                score.tokens.to_string(),
                                score.bytes.to_string(),
                            ]);
                        }
                        record.extend(std::iter::repeat_n(String::new(), 5));
                    }
                    ResultValue::Response(response) => {
                        record.extend(["generation".to_owned(), String::new()]);
                        record.extend(std::iter::repeat_n(String::new(), 3 * levels));
                        record.extend([
                            response.text,
                            response.tokens.to_string(),
                            finish_name(response.finish).to_owned(),
                            String::new(),
                            String::new(),
                        ]);
                    }
                    ResultValue::Verdict(verdict) => {
                        record.extend(["judgement".to_owned(), label_name(verdict.label, definition)]);
                        record.extend(std::iter::repeat_n(String::new(), 3 * levels + 3));
                        record.push(verdict.confidence.map_or_else(String::new, |c| c.to_string()));
                        record.push(verdict.reason.unwrap_or_default());
                    }
                }
                writer.write_record(&record)?;
            }
            Self::Json { writer, definition } => {
                let mut object = Map::new();
                let names = definition.space.coefficients().iter().map(|c| c.name.clone());
                let values: Map<String, Value> =
                    names.zip(point.to_f64()).map(|(name, value)| (name, json!(value))).collect();
                object.insert("point".to_owned(), Value::Object(values));
                object.insert("domain".to_owned(), json!(info.domain));
                object.insert("set".to_owned(), json!(info.set));
                object.insert("query".to_owned(), json!(info.id));
                match value {
                    ResultValue::Score(scores) => {
                        object.insert("rung".to_owned(), json!("likelihood"));
                        let level =
                            scores.level(Normalisation::Mean).map(|level| definition.levels.name(level));
                        object.insert("level".to_owned(), json!(level));
                        let by_level: Map<String, Value> = definition
                            .levels
                            .names()
                            .iter()
                            .zip(&scores.0)
                            .map(|(name, score)| (name.clone(), json!(score)))
                            .collect();
                        object.insert("scores".to_owned(), Value::Object(by_level));
                    }
                    ResultValue::Response(response) => {
                        object.insert("rung".to_owned(), json!("generation"));
                        object.insert("text".to_owned(), json!(response.text));
                        object.insert("tokens".to_owned(), json!(response.tokens));
                        object.insert("finish".to_owned(), json!(finish_name(response.finish)));
                    }
                    ResultValue::Verdict(verdict) => {
                        object.insert("rung".to_owned(), json!("judgement"));
                        object.insert("level".to_owned(), json!(label_name(verdict.label, definition)));
                        object.insert("confidence".to_owned(), json!(verdict.confidence));
                        object.insert("reason".to_owned(), json!(verdict.reason));
                    }
                }
                serde_json::to_writer(&mut *writer, &object).map_err(io::Error::from)?;
                writeln!(writer)?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Csv { mut writer, .. } => writer.flush()?,
            Self::Json { mut writer, .. } => writer.flush()?,
        }
        Ok(())
    }
}

fn finish_name(finish: avsweep_domain::FinishReason) -> &'static str {
    match finish {
        avsweep_domain::FinishReason::Stop => "stop",
        avsweep_domain::FinishReason::Length => "length",
    }
}

/// A label's text: the level's name, `unclear` or `refused`.
pub(super) fn label_name(label: Label, definition: &SweepDefinition) -> String {
    match label {
        Label::Level(level) => {
            definition.levels.names().get(level.index()).cloned().unwrap_or_else(|| "unknown".to_owned())
        }
        Label::Unclear => "unclear".to_owned(),
        Label::Refused => "refused".to_owned(),
    }
}
