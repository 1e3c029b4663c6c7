//! Text in, tokens out: chat templates and the tokenizer.

mod chat;
mod encode;
mod template;

pub use chat::Message;
pub(crate) use encode::ChatText;
