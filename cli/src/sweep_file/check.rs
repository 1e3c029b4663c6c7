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
        ValidationErrorKind::OneOfNotValid { .. }
        | ValidationErrorKind::AnyOf { .. }
        | ValidationErrorKind::Enum { .. }
        | ValidationErrorKind::Constant { .. }
        | ValidationErrorKind::Type { .. } => {
            let mut wanted = Wanted::default();
            // The path leads to the keyword; what is wanted is what it says with those beside it.
            let path = error.schema_path().as_str();
            if let Some(part) = schema.pointer(path.rsplit_once('/').map_or("", |(part, _)| part)) {
                wanted.gather(part);
            }
            format!(
                "{}: {}",
                if place.is_empty() { "the file" } else { &place },
                wanted.missed_by(error.instance())
            )
        }
        _ => format!("{}: {error}", if place.is_empty() { "the file" } else { &place }),
    }
}

/// What a place of the schema takes.
#[derive(Debug, Default)]
struct Wanted<'a> {
    /// Single values.
    values: Vec<&'a str>,
    /// Types of values.
    types: Vec<&'a str>,
}

impl<'a> Wanted<'a> {
    /// Adds what a part of a schema takes. `null` is left out: nobody writes it.
    fn gather(&mut self, part: &'a Value) {
        match part {
            Value::String(value) => self.values.push(value),
            Value::Array(parts) => parts.iter().for_each(|part| self.gather(part)),
            Value::Object(keywords) => {
                for (keyword, value) in keywords {
                    match keyword.as_str() {
                        "const" | "enum" | "oneOf" | "anyOf" => self.gather(value),
                        // Beside `const` and `enum` it says nothing new.
                        "type" if !keywords.contains_key("const") && !keywords.contains_key("enum") => {
                            let names = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                            self.types.extend(
                                names.iter().filter_map(Value::as_str).filter(|name| *name != "null"),
                            );
                        }
                        _ => {}
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// `'bayesan' is none of grid, bayesian (did you mean 'bayesian'?)`
    fn missed_by(&self, found: &Value) -> String {
        let text = match found {
            Value::String(text) => format!("'{text}'"),
            other => other.to_string(),
        };
        if self.values.is_empty() {
            let types: Vec<_> = self.types.iter().map(|name| kind_name(name)).collect();
            return format!("{text} was found; {} is wanted", types.join(" or "));
        }
        let near = found.as_str().and_then(|found| nearest_name(found, self.values.iter().copied()));
        let hint = near.map_or_else(String::new, |near| format!(" (did you mean '{near}'?)"));
        format!("{text} is none of {}{hint}", self.values.join(", "))
    }
}

/// JSON's types in the words of YAML.
fn kind_name(name: &str) -> &str {
    match name {
        "string" => "a text",
        "array" => "a list",
        "object" => "a mapping",
        "number" => "a number",
        "integer" => "a whole number",
        "boolean" => "true or false",
        other => other,
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
