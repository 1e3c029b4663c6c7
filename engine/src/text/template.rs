//! Chat templates, rendered as transformers renders them.
//!
//! transformers uses a sandboxed Jinja with `trim_blocks` and `lstrip_blocks`, loop controls, a `tojson` that is
//! Python's `json.dumps(ensure_ascii=False)`, `raise_exception`, `strftime_now`, and `{% generation %}` markers.
//!
//! Only the day differs: a prompt that names the date would be another one tomorrow, and a sweep's results with it.
//! Here it is always Friday, 26 July 2024, the day that Llama's templates fall back on.

use super::chat::Message;
use crate::EngineError;
use crate::files::{read_json, read_text};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, context};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const NAME: &str = "chat_template";

/// A parsed chat template with the special tokens that it may name.
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    special: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// Finds and parses the template of a model folder: `chat_template.jinja`, else `chat_template` of
    /// `tokenizer_config.json` (a string, or a list of named ones of which `default` is taken).
    ///
    /// # Errors
    /// [`EngineError::MissingFile`] when there is none, [`EngineError::Template`] when it does not parse.
    pub(crate) fn open(folder: &Path) -> Result<Self, EngineError> {
        let config_path = folder.join("tokenizer_config.json");
        let config = if config_path.is_file() { read_json(&config_path)? } else { serde_json::Value::Null };
        let (path, source) = find_template(folder, &config_path, &config)?;
        let mut environment = Environment::new();
        environment.set_syntax(transformers_syntax());
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: &str| day(format));
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned(NAME, without_generation_markers(&source))
            .map_err(|source| EngineError::Template { path, source })?;
        Ok(Self { environment, source, special: special_tokens(&config) })
    }

    /// The template's text, for fingerprints.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// The special tokens that the template may name (`bos_token`, `eos_token` ...), for fingerprints.
    pub(crate) fn special(&self) -> &BTreeMap<String, String> {
        &self.special
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// What the template raises (for example "roles must alternate").
    pub(crate) fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, Error> {
        let messages: Vec<Value> = messages
            .iter()
            // In this order: a template may print a message as JSON.
            .map(|message| context! { role => message.role.as_str(), content => message.content.as_str() })
            .collect();
        let mut context: BTreeMap<&str, Value> =
            self.special.iter().map(|(name, token)| (name.as_str(), Value::from(token.as_str()))).collect();
        context.insert("messages", Value::from(messages));
        context.insert("add_generation_prompt", Value::from(add_generation_prompt));
        context.insert("tools", Value::from(()));
        context.insert("documents", Value::from(()));
        self.environment.get_template(NAME)?.render(Value::from(context))
    }
}

/// Jinja's own delimiters, with the white space handling that transformers sets.
fn transformers_syntax() -> SyntaxConfig {
    SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .expect("Jinja's own delimiters are distinct")
}

fn find_template(
    folder: &Path,
    config_path: &Path,
    config: &serde_json::Value,
) -> Result<(PathBuf, String), EngineError> {
    let jinja = folder.join("chat_template.jinja");
    if jinja.is_file() {
        let source = read_text(&jinja)?;
        return Ok((jinja, source));
    }
    let source = match config.get("chat_template") {
        Some(serde_json::Value::String(text)) => Some(text.clone()),
        Some(serde_json::Value::Array(list)) => list
            .iter()
            .find(|entry| entry.get("name").and_then(serde_json::Value::as_str) == Some("default"))
            .and_then(|entry| entry.get("template"))
            .and_then(serde_json::Value::as_str)
            .map(str::to_owned),
        _ => None,
    };
    source.map(|text| (config_path.to_path_buf(), text)).ok_or_else(|| EngineError::MissingFile {
        path: folder.to_path_buf(),
        wanted: "chat template (chat_template.jinja, or `chat_template` in tokenizer_config.json)".to_owned(),
    })
}

/// `bos_token` and its like: a string, or an object with `content`.
fn special_tokens(config: &serde_json::Value) -> BTreeMap<String, String> {
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]
        .into_iter()
        .filter_map(|name| {
            let value = config.get(name)?;
            let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
            Some((name.to_owned(), text.to_owned()))
        })
        .collect()
}

/// Removes `{% generation %}` and `{% endgeneration %}`, which only mark spans for training masks.
fn without_generation_markers(source: &str) -> String {
    let mut kept = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let end = start + length + 2;
        let inner =
            rest[start + 2..end - 2].trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        if matches!(inner, "generation" | "endgeneration") {
            // A statement without effect keeps the marker's say over the white space around it.
            kept.push_str(&rest[..start]);
            kept.push_str(&rest[start..end].replacen(inner, "set _ = none", 1));
        } else {
            kept.push_str(&rest[..end]);
        }
        rest = &rest[end..];
    }
    kept.push_str(rest);
    kept
}

/// Python's `strftime` at midnight of 26 July 2024.
fn day(format: &str) -> Result<String, Error> {
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        text.push_str(match characters.next() {
            Some('Y') => "2024",
            Some('y') => "24",
            Some('m') => "07",
            Some('B') => "July",
            Some('b' | 'h') => "Jul",
            Some('d' | 'e') => "26",
            Some('j') => "208",
            Some('A') => "Friday",
            Some('a') => "Fri",
            Some('H' | 'M' | 'S') => "00",
            Some('I') => "12",
            Some('p') => "AM",
            Some('F') => "2024-07-26",
            Some('T') => "00:00:00",
            // Without the leading zero.
            Some('-') => match characters.next() {
                Some('d') => "26",
                Some('m') => "7",
                other => return Err(unknown_directive(other)),
            },
            Some('%') => "%",
            other => return Err(unknown_directive(other)),
        });
    }
    Ok(text)
}

fn unknown_directive(directive: Option<char>) -> Error {
    let directive = directive.map_or_else(String::new, String::from);
    Error::new(ErrorKind::InvalidOperation, format!("strftime_now does not know %{directive}"))
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`.
#[expect(clippy::needless_pass_by_value, reason = "the signature of a filter")]
fn to_json(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    // Accepted and without effect here: keys keep their order, nothing is escaped to ASCII.
    let _: Option<Value> = kwargs.get("ensure_ascii")?;
    kwargs.assert_all_used()?;
    let mut text = String::new();
    write_json(value, indent, 0, &mut text)?;
    Ok(Value::from_safe_string(text))
}

fn write_json(value: &Value, indent: Option<usize>, depth: usize, out: &mut String) -> Result<(), Error> {
    let line = |depth: usize, out: &mut String| {
        if let Some(width) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width * depth));
        }
    };
    let comma = if indent.is_some() { "," } else { ", " };
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            let mut empty = true;
            for (index, item) in value.try_iter()?.enumerate() {
                out.push_str(if index == 0 { "" } else { comma });
                line(depth + 1, out);
                write_json(&item, indent, depth + 1, out)?;
                empty = false;
            }
            if !empty {
                line(depth, out);
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            let mut empty = true;
            for (index, key) in value.try_iter()?.enumerate() {
                out.push_str(if index == 0 { "" } else { comma });
                line(depth + 1, out);
                write_json_text(&key.to_string(), out);
                out.push_str(": ");
                write_json(&value.get_item(&key)?, indent, depth + 1, out)?;
                empty = false;
            }
            if !empty {
                line(depth, out);
            }
            out.push('}');
        }
        ValueKind::Number => {
            let _ = write!(out, "{value}");
        }
        _ => write_json_text(&value.to_string(), out),
    }
    Ok(())
}

fn write_json_text(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use super::*;

    fn render(source: &str, messages: &[Message]) -> String {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("chat_template.jinja"), source).unwrap();
        std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"eos_token": {"content": "</s>"}}"#)
            .unwrap();
        ChatTemplate::open(folder.path()).unwrap().render(messages, true).unwrap()
    }

    #[test]
    fn generation_markers_leave_no_trace() {
        let marked = "a\n{%- generation %}\nb{{ eos_token }}\n{%- endgeneration %}\nc{% generation %}d{% endgeneration %}";
        assert_eq!(render(marked, &[]), "ab</s>cd");
    }

    #[test]
    fn tojson_is_pythons() {
        let messages = [Message::user("ä \"<&>\"")];
        assert_eq!(
            render("{{ messages | tojson }}", &messages),
            r#"[{"role": "user", "content": "ä \"<&>\""}]"#
        );
        assert_eq!(
            render("{{ [1, true, none] | tojson(indent=2) }}", &messages),
            "[\n  1,\n  true,\n  null\n]"
        );
    }

    #[test]
    fn the_date_is_always_the_same() {
        let template =
            "{{ strftime_now('%d %b %Y') }}, {{ strftime_now('%A, %-d %B %y, day %j, %H:%M, 100%%') }}";
        assert_eq!(render(template, &[]), "26 Jul 2024, Friday, 26 July 24, day 208, 00:00, 100%");
    }

    #[test]
    fn the_default_of_several_named_templates_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let config = serde_json::json!({"chat_template": [
            {"name": "tool_use", "template": "tools"},
            {"name": "default", "template": "{{ messages[0].content }}"},
        ]});
        std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        let render = |messages: &[Message]| ChatTemplate::open(folder.path()).unwrap().render(messages, true);
        assert_eq!(render(&[Message::user("hm")]).unwrap(), "hm");
        // A file beside it comes first, as in transformers.
        std::fs::write(folder.path().join("chat_template.jinja"), "file").unwrap();
        assert_eq!(render(&[]).unwrap(), "file");
    }

    #[derive(serde::Deserialize)]
    struct Case {
        template: String,
        messages: Vec<BTreeMap<String, String>>,
        /// Nothing where transformers refuses.
        text: Option<String>,
    }

    #[test]
    fn everything_that_templates_use_renders_as_transformers_renders_it() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/templates/expected.json");
        let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let tokens = r#"{"bos_token": "<s>", "eos_token": "</s>"}"#;
        std::fs::write(folder.path().join("tokenizer_config.json"), tokens).unwrap();
        let mut wrong = Vec::new();
        for case in cases {
            std::fs::write(folder.path().join("chat_template.jinja"), &case.template).unwrap();
            let messages: Vec<Message> =
                case.messages.iter().map(|turn| Message::new(&turn["role"], &turn["content"])).collect();
            let rendered = ChatTemplate::open(folder.path()).map(|template| template.render(&messages, true));
            let text = match &rendered {
                Ok(Ok(text)) => Some(text),
                _ => None,
            };
            if text != case.text.as_ref() {
                wrong.push(format!("{}\n  {rendered:?}\n  wanted {:?}", case.template, case.text));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
