//! Conversations as token ids: rendered through the chat template, then tokenised.
//!
//! **Where the prompt ends.** A prompt is the template's text with `add_generation_prompt`. A reference is what
//! the template adds when the assistant's turn is there, so that it ends the way the model was taught to end a
//! turn. The model generates from exactly the prompt's tokens, so no token may span the boundary, and all
//! references share one prompt: a reference's tokens are those behind the prompt's in the whole conversation, or,
//! where a token would span the boundary, those of its own text.

use super::chat::Message;
use super::template::ChatTemplate;
use crate::files::read_text;
use crate::model::ModelConfig;
use crate::{EngineError, ItemError};
use std::path::Path;
use tokenizers::Tokenizer;

/// Template and tokenizer of one model.
pub(crate) struct ChatText {
    template: ChatTemplate,
    tokenizer: Tokenizer,
    tokenizer_hash: blake3::Hash,
    end_tokens: Vec<u32>,
    stop_strings: Vec<String>,
}

/// A rendered and tokenised prompt.
pub(crate) struct EncodedPrompt {
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
}

impl ChatText {
    /// Reads `tokenizer.json`, the chat template, and settles the tokens that end a turn.
    ///
    /// # Errors
    /// [`EngineError::Tokenizer`] when the tokenizer cannot be read or has ids beyond the vocabulary;
    /// [`EngineError::Field`] when no token ends a turn; those of the chat template.
    pub(crate) fn open(folder: &Path, config: &ModelConfig) -> Result<Self, EngineError> {
        let path = folder.join("tokenizer.json");
        if !path.is_file() {
            return Err(EngineError::MissingFile {
                path: folder.to_path_buf(),
                wanted: "tokenizer.json".to_owned(),
            });
        }
        let refuse = |reason: String| EngineError::Tokenizer { path: path.clone(), reason };
        let text = read_text(&path)?;
        let mut tokenizer: Tokenizer =
            text.parse().map_err(|error| refuse(format!("not a tokenizer: {error}")))?;
        // Saved padding and truncation settings are a training script's; they would cut or fill references.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| refuse(error.to_string()))?;
        let vocabulary = tokenizer.get_vocab(true);
        if let Some((token, id)) = vocabulary.iter().max_by_key(|&(_, id)| *id)
            && *id as usize >= config.vocab_size
        {
            return Err(refuse(format!(
                "token `{token}` has id {id}, but config.json's `vocab_size` is {}: the tokenizer belongs to another model",
                config.vocab_size
            )));
        }
        let template = ChatTemplate::open(folder)?;
        let mut end_tokens = config.end_tokens.clone();
        if end_tokens.is_empty() {
            end_tokens.extend(template.special().get("eos_token").and_then(|token| vocabulary.get(token)));
        }
        if end_tokens.is_empty() || end_tokens.iter().any(|&id| id as usize >= config.vocab_size) {
            return Err(EngineError::Field {
                path: folder.join("config.json"),
                field: "eos_token_id".to_owned(),
                found: if end_tokens.is_empty() { "absent".to_owned() } else { format!("{end_tokens:?}") },
                wanted: format!(
                    "the ids of the tokens that end a turn, below `vocab_size` ({})",
                    config.vocab_size
                ),
            });
        }
        let tokenizer_hash = blake3::hash(text.as_bytes());
        let stop_strings = config.stop_strings.clone();
        Ok(Self { template, tokenizer, tokenizer_hash, end_tokens, stop_strings })
    }

    /// Hash over tokenizer, template and stop tokens.
    pub(crate) fn content_hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.tokenizer_hash.as_bytes());
        hasher.update(blake3::hash(self.template.source().as_bytes()).as_bytes());
        hasher.update(format!("{:?}{:?}", self.template.special(), self.end_tokens).as_bytes());
        hasher.finalize()
    }

    /// Renders a conversation as the template has it.
    ///
    /// # Errors
    /// [`ItemError::Template`].
    pub(crate) fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, ItemError> {
        self.template
            .render(messages, add_generation_prompt)
            .map_err(|error| ItemError::Template { reason: error.to_string() })
    }

    /// The prompt for the model's next turn.
    ///
    /// # Errors
    /// [`ItemError::Template`], [`ItemError::Tokenizer`] or [`ItemError::EmptyPrompt`].
    pub(crate) fn prompt(&self, messages: &[Message]) -> Result<EncodedPrompt, ItemError> {
        let text = self.render(messages, true)?;
        let tokens = self.encode(&text)?;
        if tokens.is_empty() {
            return Err(ItemError::EmptyPrompt);
        }
        Ok(EncodedPrompt { text, tokens })
    }

    /// The tokens of a reference after `prompt`, the token that ends the turn included.
    ///
    /// The rendered conversation is cut after the first stop token (templates often add a line break behind it
    /// that no model ever generates), else after its last special token. A template that ends turns with plain
    /// text gets a stop token appended. When the template does not render the prompt as a prefix of the whole
    /// (some drop parts of earlier turns), the reference's own text and a stop token are taken.
    ///
    /// # Errors
    /// [`ItemError::Template`] or [`ItemError::Tokenizer`].
    pub(crate) fn reference(
        &self,
        messages: &[Message],
        prompt: &EncodedPrompt,
        reference: &str,
    ) -> Result<Vec<u32>, ItemError> {
        let mut conversation = messages.to_vec();
        conversation.push(Message::assistant(reference));
        let whole = self.render(&conversation, false)?;
        let mut tokens = match whole.strip_prefix(&prompt.text) {
            None => self.encode(reference)?,
            // Some tokenizers treat the beginning of a text in their own way (SentencePiece puts a space before it).
            Some(text) => match self.encode(&whole)?.strip_prefix(prompt.tokens.as_slice()) {
                Some(tokens) => tokens.to_vec(),
                None => self.encode(text)?,
            },
        };
        if let Some(end) = tokens.iter().position(|token| self.end_tokens.contains(token)) {
            tokens.truncate(end + 1);
            return Ok(tokens);
        }
        let added = self.tokenizer.get_added_tokens_decoder();
        let special = |token: &u32| added.get(token).is_some_and(|known| known.special);
        match tokens.iter().rposition(special) {
            Some(end) => tokens.truncate(end + 1),
            None => tokens.push(self.end_tokens[0]),
        }
        Ok(tokens)
    }

    /// Whether an answer ends with its last token: one that ends the turn, or one that completes a stop string.
    ///
    /// To be asked after every token.
    ///
    /// # Errors
    /// [`ItemError::Tokenizer`].
    pub(crate) fn ends(&self, answer: &[u32]) -> Result<bool, ItemError> {
        if answer.last().is_some_and(|last| self.end_tokens.contains(last)) {
            return Ok(true);
        }
        let Some(longest) = self.stop_strings.iter().map(String::len).max() else { return Ok(false) };
        // Every token adds a byte at least; a few more, as decoders treat the first piece of a text in their own way.
        let tail = self.decode_whole(&answer[answer.len().saturating_sub(longest + 8)..])?;
        Ok(self.stop_strings.iter().any(|stop| tail.contains(stop)))
    }

    /// An answer as text: special tokens left out, cut before the first stop string.
    ///
    /// # Errors
    /// [`ItemError::Tokenizer`].
    pub(crate) fn decode(&self, answer: &[u32]) -> Result<String, ItemError> {
        let mut text = self.decode_whole(answer)?;
        if let Some(start) = self.stop_strings.iter().filter_map(|stop| text.find(stop)).min() {
            text.truncate(start);
        }
        Ok(text)
    }

    fn decode_whole(&self, tokens: &[u32]) -> Result<String, ItemError> {
        self.tokenizer
            .decode(tokens, true)
            .map_err(|error| ItemError::Tokenizer { reason: error.to_string() })
    }

    /// Tokenises text that already holds its special tokens.
    fn encode(&self, text: &str) -> Result<Vec<u32>, ItemError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|error| ItemError::Tokenizer { reason: error.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }
}
