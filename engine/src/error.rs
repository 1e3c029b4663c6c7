//! The crate's errors: each names the operation, the file, field or tensor, what was found and what was wanted.

use crate::ByteSize;
use std::path::{Path, PathBuf};

/// What can go wrong between a folder of weights and a score.
///
/// Everything that comes from outside the process is checked while opening, so that scoring and generation
/// only fail for reasons that lie in one item (see [`ItemError`]).
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted ("read", "create" ...).
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A file that must be there is not.
    #[error("{}: no {wanted}", path.display())]
    MissingFile {
        /// The folder that was searched.
        path: PathBuf,
        /// The file or files that would do.
        wanted: String,
    },
    /// A JSON file does not parse.
    #[error("{} is not valid JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's reason, with line and column.
        #[source]
        source: serde_json::Error,
    },
    /// A field of a configuration file is absent, of the wrong type, or out of range.
    #[error("{}: `{field}` is {found}, wanted {wanted}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, dotted where it is nested.
        field: String,
        /// The value found, or "absent".
        found: String,
        /// What would be accepted.
        wanted: String,
    },
    /// The model asks for something that this engine does not compute.
    #[error("{}: `{field}` is {found}, which is not supported (supported: {supported})", path.display())]
    Unsupported {
        /// The file that asks for it.
        path: PathBuf,
        /// The field or tensor.
        field: String,
        /// The value found.
        found: String,
        /// What is supported.
        supported: String,
    },
    /// A safetensors file has a broken header.
    #[error("{} is not a sound safetensors file", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// The reader's reason.
        #[source]
        source: safetensors::SafeTensorError,
    },
    /// A safetensors file is shorter or longer than its header says.
    #[error("{} has {found} bytes, but its header describes {wanted}: it was cut short or overwritten", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes in the file.
        found: u64,
        /// Bytes that the header describes, itself included.
        wanted: u64,
    },
    /// A tensor that the model needs is not in the file.
    #[error("{}: tensor `{tensor}` is missing, wanted shape {wanted:?}", path.display())]
    MissingTensor {
        /// The file or folder.
        path: PathBuf,
        /// The absent tensor.
        tensor: String,
        /// The shape it should have.
        wanted: Vec<usize>,
    },
    /// A tensor is in the file that the model does not know.
    #[error("{}: tensor `{tensor}` is not one of this model's (a name like `{example}` was expected)", path.display())]
    UnknownTensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor nobody asked for.
        tensor: String,
        /// A tensor that the model has.
        example: String,
    },
    /// Two shards hold a tensor of the same name.
    #[error("tensor `{tensor}` is both in {} and in {}", first.display(), second.display())]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// The first file that has it.
        first: PathBuf,
        /// The second file that has it.
        second: PathBuf,
    },
    /// A tensor has another shape than the model's.
    #[error("{}: tensor `{tensor}` has shape {found:?}, wanted {wanted:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that the model's configuration asks for.
        wanted: Vec<usize>,
    },
    /// A tensor is stored in a type that weights cannot have here (quantised ones, for example).
    #[error("{}: tensor `{tensor}` is stored as {found}, wanted F32, F16 or BF16", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The stored type.
        found: String,
    },
    /// A weight is NaN or infinite.
    #[error("{}: tensor `{tensor}` holds {value} at element {index}, wanted finite numbers", path.display())]
    NonFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Element index in row-major order.
        index: usize,
        /// The offending value.
        value: f32,
    },
    /// A delta was made from other base weights than those it is to be added to.
    #[error("{} was extracted from the base weights {found}, but this base has {wanted}", path.display())]
    OtherBase {
        /// The delta file.
        path: PathBuf,
        /// Weights fingerprint recorded in the delta.
        found: String,
        /// Weights fingerprint of the base at hand.
        wanted: String,
    },
    /// A tensor of a LoRA adapter cannot be merged into this base.
    #[error("{}: tensor `{tensor}` {problem}", path.display())]
    AdapterTensor {
        /// The adapter's weights.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it, to be read after its name.
        problem: String,
    },
    /// The tokenizer cannot be used with this model.
    #[error("{}: {reason}", path.display())]
    Tokenizer {
        /// The tokenizer file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The chat template does not parse.
    #[error("{}: the chat template does not parse", path.display())]
    Template {
        /// The file it came from.
        path: PathBuf,
        /// The template engine's reason.
        #[source]
        source: minijinja::Error,
    },
    /// A coefficient's tensor pattern is not well formed.
    #[error("coefficient `{coefficient}`: tensor pattern `{pattern}` is malformed: {reason}")]
    BadPattern {
        /// The coefficient's name.
        coefficient: String,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A coefficient's tensor pattern matches no tensor of the model.
    #[error(
        "coefficient `{coefficient}`: tensor pattern `{pattern}` matches no tensor (they are named like `{example}`)"
    )]
    UnmatchedPattern {
        /// The coefficient's name.
        coefficient: String,
        /// The pattern.
        pattern: String,
        /// A tensor of the model.
        example: String,
    },
    /// A coefficient refers to a vector that was not given.
    #[error(
        "coefficient `{coefficient}` turns vector {found}, but {vectors} vector(s) were given (counted from 0)"
    )]
    UnknownVector {
        /// The coefficient's name.
        coefficient: String,
        /// The vector index asked for.
        found: usize,
        /// How many vectors there are.
        vectors: usize,
    },
    /// A point has the wrong number of coefficients.
    #[error("the point has {found} coefficient(s), wanted {wanted}")]
    PointLength {
        /// Values given.
        found: usize,
        /// Coefficients of the engine.
        wanted: usize,
    },
    /// A coefficient's value is not a finite number.
    #[error("coefficient `{coefficient}` is {found}, wanted a finite number")]
    PointValue {
        /// The coefficient's name.
        coefficient: String,
        /// The value given.
        found: f64,
    },
    /// A sampling setting is out of range.
    #[error("`{field}` is {found}, wanted {wanted}")]
    Setting {
        /// The setting.
        field: &'static str,
        /// The value given.
        found: String,
        /// The accepted range.
        wanted: &'static str,
    },
    /// An output folder or file is already there.
    #[error("{} already holds something; name an empty or new place", path.display())]
    NotEmpty {
        /// The place that would be overwritten.
        path: PathBuf,
    },
    /// A tensor was asked for that the model does not have.
    #[error("the model has no tensor `{tensor}` (they are named like `{example}`)")]
    NoTensor {
        /// The name asked for.
        tensor: String,
        /// A tensor that the model has.
        example: String,
    },
    /// The device that was asked for cannot be used.
    #[error("cannot compute on {wanted}: {reason}")]
    NoDevice {
        /// What was asked for.
        wanted: String,
        /// Why not.
        reason: String,
    },
    /// The model does not fit the memory that it may take.
    #[error(
        "{} needs {} of memory ({} of merged weights, {} for a short query), but may take {}: give it more by \
         --memory, or a machine with more", path.display(), ByteSize(merged + least), ByteSize(*merged),
        ByteSize(*least), ByteSize(*budget)
    )]
    TooLarge {
        /// The base model's folder.
        path: PathBuf,
        /// Bytes of merged weights.
        merged: u64,
        /// Bytes that caches and activations of a short query take.
        least: u64,
        /// Bytes that may be taken.
        budget: u64,
    },
    /// The device's memory does not suffice; less at a time may fit.
    #[error("out of memory on the device while {doing}: {reason}")]
    OutOfMemory {
        /// What was being done.
        doing: &'static str,
        /// What the device said.
        reason: String,
    },
    /// The device failed.
    #[error("the device failed while {doing}")]
    Device {
        /// What was being done.
        doing: &'static str,
        /// candle's reason.
        #[source]
        source: Box<candle_core::Error>,
    },
    /// More coefficients act on one tensor than a device's kernel takes.
    #[error("{found} coefficients act on one tensor, wanted at most {wanted} on this device")]
    Terms {
        /// Coefficients that act on it.
        found: usize,
        /// The kernel's limit.
        wanted: usize,
    },
    /// Prepared items belong to another model than the engine's.
    #[error("these items were prepared for model {found}, but the engine holds {wanted}")]
    OtherModel {
        /// Fingerprint of the model that the items were prepared with.
        found: String,
        /// Fingerprint of the engine's base.
        wanted: String,
    },
}

impl EngineError {
    /// For `map_err`: the failure of `action` on `path`.
    pub(crate) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(std::io::Error) -> Self + use<'a> {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }
}

/// What can go wrong with one item of a batch, while the others go on.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ItemError {
    /// The chat template refused these messages.
    #[error("the chat template refuses the messages: {reason}")]
    Template {
        /// The template engine's reason.
        reason: String,
    },
    /// The text could not be tokenised.
    #[error("the tokenizer refuses the text: {reason}")]
    Tokenizer {
        /// The tokenizer's reason.
        reason: String,
    },
    /// The rendered prompt has no token.
    #[error("the prompt renders to no token at all")]
    EmptyPrompt,
    /// Prompt and reference (or prompt and one new token) do not fit the model's context.
    #[error("{what} takes {tokens} tokens, but the model's context holds {context}")]
    TooLong {
        /// The part that does not fit.
        what: String,
        /// Tokens needed.
        tokens: usize,
        /// `max_position_embeddings`.
        context: usize,
    },
    /// The item does not fit the memory that weights leave, not even alone.
    #[error(
        "{tokens} tokens take {} of memory beside the weights, but only {} are left (--memory)",
        ByteSize(*needed), ByteSize(*room)
    )]
    Memory {
        /// Tokens that are in memory together.
        tokens: usize,
        /// Bytes that they take.
        needed: u64,
        /// Bytes that are left.
        room: u64,
    },
    /// The device failed on this item alone.
    #[error("{reason}")]
    Device {
        /// What failed, and what the device said.
        reason: String,
    },
    /// The merged weights give numbers that are not finite at this point.
    #[error("the merged model gives non-finite log-probabilities")]
    NonFinite,
}
