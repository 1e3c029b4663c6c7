//! Holds a sweep file's text against the JSON schema.

use anyhow::{Context as _, Result, bail};
use avsweep_domain::nearest_name;
use jsonschema::{ValidationError, error::ValidationErrorKind};
use serde_json::Value;

use super::raw::{RawStrategy, RawSweep, schema, strategy_schema};

/// Parses a sweep file's text; `origin` names it in errors.
///
/// # Errors
/// All the places where the text does not fit the schema, one a line.
pub(super) fn parse(text: &str, origin: &str) -> Result<RawSweep> {
    let value: Value = serde_saphyr::from_str(text).with_context(|| format!("{origin}: not valid YAML"))?;
    if value.is_null() {
        bail!("{origin}: is empty; name, model, vectors, coefficients and domains are wanted");
    }
    fits(&value, &schema(), origin)?;
    serde_json::from_value(value).with_context(|| format!("{origin}: not a sweep file"))
}

/// What a sweep file has under `strategy`, from elsewhere.
///
/// # Errors
/// All the places where the value does not fit the schema, one a line.
pub(super) fn strategy(value: Value, origin: &str) -> Result<RawStrategy> {
    fits(&value, &strategy_schema(), origin)?;
    serde_json::from_value(value).with_context(|| format!("{origin}: not a strategy"))
}

fn fits(value: &Value, schema: &Value, origin: &str) -> Result<()> {
    let validator = jsonschema::validator_for(schema).context("the sweep file schema is itself invalid")?;
    let complaints: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{origin}: {}", describe(&error, schema))).collect();
    if !complaints.is_empty() {
        bail!("{}", complaints.join("\n"));
    }
    Ok(())
}

/// `evaluation.serch_queries: unknown key (did you mean 'search_queries'?)`
fn describe(error: &ValidationError<'_>, schema: &Value) -> String {
    let place = place(error.instance_path().as_str());
    let at = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            let known = known_keys(error.schema_path().as_str(), schema);
            unexpected
                .iter()
                .map(|key| {
                    let hint = nearest_name(key, known.iter().copied()).map_or_else(
                        || format!("known keys: {}", known.join(", ")),
                        |near| format!("did you mean '{near}'?"),
                    );
                    format!("{}: unknown key ({hint})", at(key))
                })
                .collect::<Vec<_>>()
                .join("; ")
        }
        ValidationErrorKind::Required { property } => {
            format!("{}: missing", at(property.as_str().unwrap_or("a required key")))
        }
        _ => format!("{}: {error}", if place.is_empty() { "the file" } else { &place }),
    }
}

/// `/coefficients/alpha/step` as `coefficients.alpha.step`.
fn place(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace('/', ".").replace("~1", "/").replace("~0", "~")
}

/// The properties that stand beside an `additionalProperties` keyword in the schema.
fn known_keys<'a>(schema_path: &str, schema: &'a Value) -> Vec<&'a str> {
    let parent = schema_path.rsplit_once('/').map_or("", |(parent, _)| parent);
    schema
        .pointer(parent)
        .and_then(|object| object.get("properties"))
        .and_then(Value::as_object)
        .map(|properties| properties.keys().map(String::as_str).collect())
        .unwrap_or_default()
}
