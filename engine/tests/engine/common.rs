//! Random Llama checkpoints with a word tokenizer and a ChatML template, for tests and benches.

use avsweep_engine::{
    AlignmentVector, BaseModel, Coefficient, Device, Engine, EngineError, Message, PromptItem, WeightType,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Sizes of a random model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) vocab: usize,
    pub(crate) context: usize,
    pub(crate) tied: bool,
}

impl Shape {
    /// Names and shapes of the tensors, as transformers names them.
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let head_dim = self.hidden / self.heads;
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab, self.hidden])];
        for layer in 0..self.layers {
            for (name, shape) in [
                ("input_layernorm", vec![self.hidden]),
                ("self_attn.q_proj", vec![self.heads * head_dim, self.hidden]),
                ("self_attn.k_proj", vec![self.kv_heads * head_dim, self.hidden]),
                ("self_attn.v_proj", vec![self.kv_heads * head_dim, self.hidden]),
                ("self_attn.o_proj", vec![self.hidden, self.heads * head_dim]),
                ("post_attention_layernorm", vec![self.hidden]),
                ("mlp.gate_proj", vec![self.inner, self.hidden]),
                ("mlp.up_proj", vec![self.inner, self.hidden]),
                ("mlp.down_proj", vec![self.hidden, self.inner]),
            ] {
                tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
            }
        }
        tensors.push(("model.norm.weight".to_owned(), vec![self.hidden]));
        if !self.tied {
            tensors.push(("lm_head.weight".to_owned(), vec![self.vocab, self.hidden]));
        }
        tensors
    }
}

/// Random weights of a shape: norms around 1, matrices scaled so that logits spread over a few units.
pub(crate) fn random_weights(shape: &Shape, seed: u64, scale: f32) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let mut value = |width: f32| (generator.random::<f32>() - 0.5) * 2.0 * width;
    shape
        .tensors()
        .into_iter()
        .map(|(name, dimensions)| {
            let length = dimensions.iter().product();
            let is_norm = dimensions.len() == 1;
            let width = if is_norm { 0.1 } else { 3.0 / (dimensions[1] as f32).sqrt() } * scale;
            let centre = if is_norm && scale == 1.0 { 1.0 } else { 0.0 };
            let values = (0..length).map(|_| centre + value(width)).collect();
            (name, dimensions, values)
        })
        .collect()
}

/// Writes tensors as an f32 safetensors file.
pub(crate) fn write_tensors(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let mut header = Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (name, shape, values) in tensors {
        let start = data.len();
        values.iter().for_each(|value| data.extend_from_slice(&value.to_le_bytes()));
        header.insert(
            name.clone(),
            json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&data);
    std::fs::write(path, file).unwrap();
}

/// ChatML, as many public models have it.
const TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Writes configuration, tokenizer (words `w0 w1 …` up to the vocabulary) and template.
pub(crate) fn write_companions(folder: &Path, shape: &Shape) {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": shape.hidden, "intermediate_size": shape.inner, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": shape.tied, "eos_token_id": 2,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let special = ["<unk>", "<|im_start|>", "<|im_end|>"];
    let mut vocabulary: Map<String, Value> =
        special.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
    for id in special.len()..shape.vocab {
        vocabulary.insert(format!("w{}", id - special.len()), json!(id));
    }
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let tokenizer_config = json!({"eos_token": "<|im_end|>", "chat_template": TEMPLATE});
    std::fs::write(folder.join("tokenizer_config.json"), tokenizer_config.to_string()).unwrap();
}

/// A random base model and `vectors` random delta files beside it.
pub(crate) struct RandomFamily {
    /// Deleted with everything in it when the family is dropped.
    pub(crate) folder: tempfile::TempDir,
    pub(crate) base: PathBuf,
    pub(crate) vectors: Vec<PathBuf>,
}

impl RandomFamily {
    pub(crate) fn new(shape: &Shape, vectors: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        std::fs::create_dir(&base).unwrap();
        write_companions(&base, shape);
        write_tensors(&base.join("model.safetensors"), &random_weights(shape, 1, 1.0));
        let vectors = (0..vectors)
            .map(|index| {
                let path = folder.path().join(format!("vector{index}.safetensors"));
                write_tensors(&path, &random_weights(shape, 100 + index as u64, 0.1));
                path
            })
            .collect();
        Self { folder, base, vectors }
    }
}

/// `count` words drawn from the vocabulary.
pub(crate) fn words(generator: &mut ChaCha8Rng, count: usize, vocab: usize) -> String {
    (0..count).map(|_| format!("w{}", generator.random_range(0..vocab - 3))).collect::<Vec<_>>().join(" ")
}

/// `count` prompts of fewer than `longest` words, drawn from a seed.
pub(crate) fn random_prompts(seed: u64, count: u64, longest: usize, vocab: usize) -> Vec<PromptItem> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    (0..count)
        .map(|seed| {
            let length = generator.random_range(1..longest);
            PromptItem { messages: vec![Message::user(words(&mut generator, length, vocab))], seed }
        })
        .collect()
}

/// An engine on a device, with a coefficient for each vector.
pub(crate) fn load(
    device: &Device,
    memory: Option<u64>,
    base: &Path,
    vectors: &[impl AsRef<Path>],
    dtype: WeightType,
) -> Result<Engine, EngineError> {
    let base = BaseModel::open(base).unwrap();
    let vectors: Vec<_> =
        vectors.iter().map(|path| AlignmentVector::open(path.as_ref(), &base).unwrap()).collect();
    let coefficients: Vec<_> =
        (0..vectors.len()).map(|index| Coefficient::whole(format!("c{index}"), index)).collect();
    Engine::load_on(device, memory, base, vectors, &coefficients, dtype)
}
