//! Queries: prompts with a reference response per level.

use serde::{Deserialize, Serialize};

use crate::{Fingerprint, FingerprintBuilder, Levels};

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that stand before the conversation.
    System,
    /// The person who asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name chat templates know the role by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// One prompt of one domain, with a reference response per level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// Its id, unique in the sweep.
    pub id: String,
    /// The conversation up to the model's turn; at least one message.
    pub messages: Vec<Message>,
    /// One reference response per level, in the levels' order.
    pub references: Vec<String>,
}

/// What is wrong with a query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The id is empty.
    #[error("a query has an empty id")]
    EmptyId,
    /// There is nothing to ask.
    #[error("query '{0}' has no messages")]
    NoMessages(String),
    /// A message says nothing.
    #[error("query '{id}': message {number} (of the {}) is blank", .role.as_str())]
    BlankMessage {
        /// The query.
        id: String,
        /// The message, counted from 1.
        number: usize,
        /// Who should say something.
        role: Role,
    },
    /// The last message is the model's own.
    #[error("query '{0}' ends with an assistant message; the model's answer would follow it")]
    EndsWithAssistant(String),
    /// A reference is missing or empty.
    #[error("query '{id}' has no reference for level '{level}'")]
    MissingReference {
        /// The query.
        id: String,
        /// The level without a reference.
        level: String,
    },
    /// A reference for something that is no level.
    #[error("query '{id}' has a reference for '{found}', which is no level; the levels are {known}")]
    UnknownLevel {
        /// The query.
        id: String,
        /// The name found.
        found: String,
        /// The levels there are.
        known: String,
    },
}

impl Query {
    /// The text of the last user message, for tables and judges.
    pub fn question(&self) -> &str {
        self.messages
            .iter()
            .rev()
            .find(|message| message.role == Role::User)
            .map_or("", |message| &message.content)
    }

    /// Checks that there is something to ask, that every message says something, and that there is one non-empty reference per level.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self, levels: &Levels) -> Result<(), QueryError> {
        if self.id.trim().is_empty() {
            return Err(QueryError::EmptyId);
        }
        let Some(last) = self.messages.last() else {
            return Err(QueryError::NoMessages(self.id.clone()));
        };
        if last.role == Role::Assistant {
            return Err(QueryError::EndsWithAssistant(self.id.clone()));
        }
        let mut numbered = self.messages.iter().zip(1..);
        if let Some((message, number)) = numbered.find(|(message, _)| message.content.trim().is_empty()) {
            return Err(QueryError::BlankMessage { id: self.id.clone(), number, role: message.role });
        }
        for level in levels.iter() {
            if self.references.get(level.index()).is_none_or(|text| text.trim().is_empty()) {
                return Err(QueryError::MissingReference {
                    id: self.id.clone(),
                    level: levels.name(level).to_owned(),
                });
            }
        }
        Ok(())
    }

    /// What the query's results depend on: messages and references, not the id.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut builder = FingerprintBuilder::new("avsweep query 1");
        builder.count(self.messages.len());
        for message in &self.messages {
            builder.text(message.role.as_str()).text(&message.content);
        }
        builder.count(self.references.len());
        for reference in &self.references {
            builder.text(reference);
        }
        builder.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blank_message_is_refused_by_query_and_place() {
        let query = |contents: [&str; 2]| Query {
            id: "m-1".to_owned(),
            messages: [Role::System, Role::User]
                .into_iter()
                .zip(contents)
                .map(|(role, content)| Message { role, content: content.to_owned() })
                .collect(),
            references: vec!["a".to_owned(); 3],
        };
        let check = |contents| query(contents).check(&Levels::default());
        assert_eq!(check(["Be brief.", "Why?"]), Ok(()));
        let error = |contents| check(contents).expect_err("blank").to_string();
        assert_eq!(error(["", "Why?"]), "query 'm-1': message 1 (of the system) is blank");
        assert_eq!(error(["Be brief.", " \n\t"]), "query 'm-1': message 2 (of the user) is blank");
    }
}
