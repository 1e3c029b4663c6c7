//! Holds a sweep file's text against the JSON schema.

use std::fmt;

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
            let said = wanted.missed_by(error.instance()).unwrap_or_else(|| error.to_string());
            format!("{}: {said}", if place.is_empty() { "the file" } else { &place })
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
    types: Vec<WantedType<'a>>,
}

/// A type by its name in JSON schemas; of a list also the type of its items, where the schema says.
#[derive(Debug)]
struct WantedType<'a> {
    name: &'a str,
    items: Option<&'a str>,
}

impl WantedType<'_> {
    fn holds(&self, value: &Value) -> bool {
        let items = value.as_array().map_or(&[][..], Vec::as_slice);
        is_of(value, self.name) && self.items.is_none_or(|name| items.iter().all(|item| is_of(item, name)))
    }
}

impl fmt::Display for WantedType<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(kind_name(self.name))?;
        self.items.map_or(Ok(()), |items| write!(f, " of {}", kind_names(items)))
    }
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
                            let of = keywords.get("items").and_then(|items| items.get("type")?.as_str());
                            let names = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
                            self.types.extend(
                                names.map(|name| WantedType { name, items: of.filter(|_| name == "array") }),
                            );
                        }
                        _ => {}
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// `'bayesan' is none of grid, bayesian (did you mean 'bayesian'?)`; nothing where the value is of a type that is wanted
    /// and something else is wrong.
    fn missed_by(&self, found: &Value) -> Option<String> {
        let text = match found {
            Value::String(text) => format!("'{text}'"),
            other => other.to_string(),
        };
        if self.values.is_empty() {
            if self.types.iter().any(|wanted| wanted.holds(found)) {
                return None;
            }
            let types: Vec<_> = self.types.iter().map(WantedType::to_string).collect();
            return Some(format!("{text} was found; {} is wanted", types.join(" or ")));
        }
        let near = found.as_str().and_then(|found| nearest_name(found, self.values.iter().copied()));
        let hint = near.map_or_else(String::new, |near| format!(" (did you mean '{near}'?)"));
        Some(format!("{text} is none of {}{hint}", self.values.join(", ")))
    }
}

/// Whether a value is of a type of JSON schemas.
fn is_of(value: &Value, name: &str) -> bool {
    match value {
        Value::Null => name == "null",
        Value::Bool(_) => name == "boolean",
        Value::Number(number) => name == "number" || (name == "integer" && !number.is_f64()),
        Value::String(_) => name == "string",
        Value::Array(_) => name == "array",
        Value::Object(_) => name == "object",
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

/// The same, of several.
fn kind_names(name: &str) -> &str {
    match name {
        "string" => "texts",
        "array" => "lists",
        "object" => "mappings",
        "number" => "numbers",
        "integer" => "whole numbers",
        "boolean" => "trues and falses",
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_type_that_is_missed_is_told_with_its_items_and_what_else_is_wrong_by_the_validator() {
        let schema = json!({"anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}, "minItems": 2},
            {"type": "null"},
        ]});
        let said = |value: Value| fits(&value, &schema, "file").expect_err("it does not fit").to_string();
        assert_eq!(said(json!([5])), "file: the file: [5] was found; a text or a list of texts is wanted");
        assert_eq!(said(json!(5)), "file: the file: 5 was found; a text or a list of texts is wanted");
        let own = said(json!(["a"]));
        assert!(own.contains("not valid under any of the schemas") && !own.contains("was found"), "{own}");
    }
}
