//! Query files: one JSON object a line.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use avsweep_domain::{Levels, Message, Query, QueryError, Role};
use serde::Deserialize;

/// A line of a query file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQuery {
    id: String,
    query: Option<String>,
    messages: Option<Vec<Message>>,
    references: HashMap<String, String>,
}

/// Reads a query file.
///
/// # Errors
/// Names the file and line of the first query that is not one, lacks a reference, or repeats an id.
pub(super) fn read(path: &Path, levels: &Levels) -> Result<Vec<Query>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let mut queries: Vec<Query> = Vec::new();
    let mut lines_by_id: HashMap<String, usize> = HashMap::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let number = index + 1;
        let query = parse(line, levels).with_context(|| format!("{}:{number}", path.display()))?;
        if let Some(first) = lines_by_id.insert(query.id.clone(), number) {
            bail!("{}:{number}: query id '{}' stands on line {first} already", path.display(), query.id);
        }
        queries.push(query);
    }
    ensure!(!queries.is_empty(), "{}: holds no query", path.display());
    Ok(queries)
}

fn parse(line: &str, levels: &Levels) -> Result<Query> {
    let raw: RawQuery = serde_json::from_str(line).context(
        "not a query such as {\"id\": \"med-017\", \"query\": \"…\", \"references\": {\"LEVEL\": \"…\", …}}",
    )?;
    let messages = match (raw.query, raw.messages) {
        (Some(content), None) => vec![Message { role: Role::User, content }],
        (None, Some(messages)) => messages,
        (Some(_), Some(_)) => {
            bail!("query '{}' has both 'query' and 'messages'; one of them is wanted", raw.id)
        }
        (None, None) => bail!("query '{}' has neither 'query' nor 'messages'", raw.id),
    };
    let mut references = raw.references;
    let in_order = levels.names().iter().map(|level| references.remove(level).unwrap_or_default()).collect();
    let query = Query { id: raw.id, messages, references: in_order };
    if let Some(found) = references.into_keys().min() {
        return Err(QueryError::UnknownLevel { id: query.id, found, known: levels.names().join(", ") }.into());
    }
    query.check(levels)?;
    Ok(query)
}
