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
use std::collections::HashSet;
use std::path::Path;
use tokenizers::Tokenizer;

/// Template and tokenizer of one model.
pub(crate) struct ChatText {
    template: ChatTemplate,
    tokenizer: Tokenizer,
    tokenizer_hash: blake3::Hash,
    end_tokens: Vec<u32>,
    stop_strings: Vec<String>,
    special: HashSet<u32>,
    /// By id whether a token adds to decoded text: special ones do not, nor ids without a token.
    heard: Vec<bool>,
}

/// Tokens that are decoded before those that a stop string can take.
const MARGIN: usize = 8;

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
        let added = tokenizer.get_added_tokens_decoder();
        let special: HashSet<u32> =
            added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect();
        let mut heard = vec![false; config.vocab_size];
        for id in vocabulary.into_values() {
            heard[id as usize] = !special.contains(&id);
        }
        Ok(Self { template, tokenizer, tokenizer_hash, end_tokens, stop_strings, special, heard })
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
        match tokens.iter().rposition(|token| self.special.contains(token)) {
            Some(end) => tokens.truncate(end + 1),
            None => tokens.push(self.end_tokens[0]),
        }
        Ok(tokens)
    }

    /// Whether an answer ends with its last token: one that ends the turn, or one that completes a stop string, of the
    /// model's or of these.
    ///
    /// To be asked after every token.
    ///
    /// # Errors
    /// [`ItemError::Tokenizer`].
    pub(crate) fn ends(&self, answer: &[u32], stops: &[String]) -> Result<bool, ItemError> {
        if answer.last().is_some_and(|last| self.end_tokens.contains(last)) {
            return Ok(true);
        }
        let stops = || self.stop_strings.iter().chain(stops);
        let Some(longest) = stops().map(String::len).max() else { return Ok(false) };
        // Only what the last tokens added can have completed one. A token that adds anything adds a byte at least; a
        // few more, as decoders treat the first piece of a text in their own way, and a character may have begun before.
        let mut wanted = longest + MARGIN;
        let from = answer.iter().rposition(|token| {
            wanted -= usize::from(self.heard.get(*token as usize) == Some(&true));
            wanted == 0
        });
        let tail = self.decode_whole(&answer[from.unwrap_or(0)..])?;
        if first_stop(settled(&tail), stops()).is_none() {
            return Ok(false);
        }
        // The beginning of a tail may read otherwise than the same tokens do in the whole.
        let whole = self.decode_whole(answer)?;
        Ok(first_stop(settled(&whole), stops()).is_some())
    }

    /// An answer as text: special tokens left out, cut before the stop string that was completed first.
    ///
    /// # Errors
    /// [`ItemError::Tokenizer`].
    pub(crate) fn decode(&self, answer: &[u32], stops: &[String]) -> Result<String, ItemError> {
        let mut text = self.decode_whole(answer)?;
        if let Some(start) = first_stop(&text, self.stop_strings.iter().chain(stops)) {
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

/// What later tokens cannot change: a character of which only some bytes are there reads as U+FFFD until it is whole.
fn settled(text: &str) -> &str {
    text.trim_end_matches(char::REPLACEMENT_CHARACTER)
}

/// Where the stop string begins that is completed first; of several that end together the longest. So it does not matter
/// how many characters a token brings.
fn first_stop<'a>(text: &str, stops: impl Iterator<Item = &'a String>) -> Option<usize> {
    stops
        .filter_map(|stop| text.find(stop).map(|start| (start + stop.len(), start)))
        .min()
        .map(|(_, start)| start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stop_string_that_is_completed_first_cuts() {
        let cut = |stops: &[&str]| {
            let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
            first_stop("one two three two", stops.iter())
        };
        assert_eq!(cut(&["two"]), Some(4));
        // It begins earlier, but is completed later.
        assert_eq!(cut(&["one two three", "two"]), Some(4));
        assert_eq!(cut(&["two", "o t", "e two"]), Some(2));
        assert_eq!(cut(&["Two", "four"]), None);
    }

    /// Asked after every token, an answer ends with the one that brings the stop string's last byte, wherever tokens
    /// and characters are cut, and whatever special tokens stand between.
    #[test]
    fn a_stop_string_ends_an_answer_with_its_last_byte() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens/untied");
        let base = crate::BaseModel::open(&folder).expect("the golden opens");
        let text = &base.text;
        let answer = "Zoë’s café: “déjà vu”\n\nΩmega, 医学 and 🩺🩺 at the end. The heart pumps blood.";
        let mut tokens = text.encode(answer).expect("it is text");
        assert!(tokens.len() > answer.chars().count() / 2, "characters beyond ASCII take several tokens");
        // Special tokens say nothing; many of them do not hide what stands before.
        let silent =
            *text.special.iter().find(|token| !text.end_tokens.contains(token)).expect("there is one");
        tokens.splice(9..9, std::iter::repeat_n(silent, 40));
        // One character per byte, in this tokenizer's own alphabet.
        let bytes = |token: &u32| match text.special.contains(token) {
            true => 0,
            false => text.tokenizer.id_to_token(*token).map_or(0, |token| token.chars().count()),
        };
        for stop in [
            "é",
            "fé: “d",
            "vu”\n\nΩ",
            "\n\n",
            "学",
            "🩺🩺",
            "🩺 at",
            "’s c",
            "blood.",
            "Zoë’s café: “déjà vu”\n\nΩmega",
            "é",
        ] {
            let end = answer.find(stop).expect("it is there") + stop.len();
            let mut read = 0;
            let wanted = tokens.iter().position(|token| {
                read += bytes(token);
                read >= end
            });
            let stops = ["nowhere".to_owned(), stop.to_owned()];
            let found =
                (1..=tokens.len()).position(|count| text.ends(&tokens[..count], &stops).expect("it decodes"));
            assert_eq!(found, wanted, "{stop:?}");
            let count = found.map_or(0, |last| last + 1);
            let kept = text.decode(&tokens[..count], &stops).expect("it decodes");
            assert_eq!(kept, answer[..end - stop.len()], "{stop:?}");
        }
        assert!(!text.ends(&tokens, &["Heart".to_owned()]).expect("it decodes"));
        assert!(!text.ends(&tokens, &[]).expect("it decodes"));
    }
}
