//! The family's own byte-level BPE tokenizer and chat template.

use std::path::Path;

use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

use crate::corpus::Query;
use crate::error::{PocketError, Result};

/// Fills batches; never scored.
pub const PAD: &str = "<|pad|>";
/// Opens the question.
pub const USER: &str = "<|user|>";
/// Opens the answer.
pub const ASSISTANT: &str = "<|assistant|>";
/// Ends the answer: the model's end-of-sequence token.
pub const END: &str = "<|end|>";

/// Ids of the special tokens: the trainer puts them first, in this order.
pub const PAD_ID: u32 = 0;
/// Id of [`USER`].
pub const USER_ID: u32 = 1;
/// Id of [`ASSISTANT`].
pub const ASSISTANT_ID: u32 = 2;
/// Id of [`END`].
pub const END_ID: u32 = 3;

/// The template that `tokenizer_config.json` carries: two tokens around a question, one after
/// an answer.
pub const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/// Text to tokens and back, with the chat template applied by hand.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    tokenizer: Tokenizer,
}

#[expect(clippy::needless_pass_by_value, reason = "map_err hands its error over")]
fn tokenizer_error(error: tokenizers::Error) -> PocketError {
    PocketError::Tokenizer(error.to_string())
}

impl Vocabulary {
    /// Trains a BPE of `size` tokens (4 special, 256 bytes, the rest merges) on the distinct
    /// texts of the training queries.
    ///
    /// # Errors
    /// When the trainer fails.
    pub fn train(queries: &[Query], size: usize) -> Result<Self> {
        let mut texts: Vec<&str> = queries
            .iter()
            .flat_map(|q| std::iter::once(q.text.as_str()).chain(q.references.iter().map(String::as_str)))
            .collect();
        texts.sort_unstable();
        texts.dedup();
        let specials = [PAD, USER, ASSISTANT, END].map(|text| AddedToken::from(text, true));
        let mut trainer: TrainerWrapper = BpeTrainerBuilder::new()
            .show_progress(false)
            .vocab_size(size)
            .min_frequency(0)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(specials.to_vec())
            .build()
            .into();
        let mut tokenizer = Tokenizer::new(BPE::default());
        tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        tokenizer.with_decoder(Some(ByteLevel::default()));
        tokenizer.train(&mut trainer, texts.into_iter()).map_err(tokenizer_error)?;
        Ok(Self { tokenizer })
    }

    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// When the file is not a tokenizer.
    pub fn load(path: &Path) -> Result<Self> {
        Tokenizer::from_file(path)
            .map(|tokenizer| Self { tokenizer })
            .map_err(|error| PocketError::Tokenizer(format!("{}: {error}", path.display())))
    }

    /// The tokenizer as the JSON document that Hugging Face tokenizers read.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String> {
        self.tokenizer.to_string(true).map_err(tokenizer_error)
    }

    /// Tokens in all, special ones included.
    pub fn size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// A question as the model reads it: opened by [`USER`], closed by [`ASSISTANT`].
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub fn prompt(&self, question: &str) -> Result<Vec<u32>> {
        let mut ids = vec![USER_ID];
        ids.extend(self.plain(question)?);
        ids.push(ASSISTANT_ID);
        Ok(ids)
    }

    /// An answer as the model writes it, closed by [`END`].
    ///
    /// # Errors
    /// When the tokenizer refuses the text.
    pub fn answer(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.plain(text)?;
        ids.push(END_ID);
        Ok(ids)
    }

    /// Tokens back to text, special tokens left out.
    ///
    /// # Errors
    /// When the tokens do not decode.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, true).map_err(tokenizer_error)
    }

    fn plain(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.tokenizer.encode(text, false).map_err(tokenizer_error)?;
        Ok(encoding.get_ids().to_vec())
    }
}
