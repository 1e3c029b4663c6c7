//! Random models of real shapes, written as Hugging Face folders.

use anyhow::Result;
use avsweep_engine::{AlignmentVector, BaseModel, Coefficient, Device, Engine, WeightType};
use clap::ValueEnum;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// A model's sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// SmolLM2-135M: 30 layers of width 576, tied embeddings.
    #[value(name = "135m")]
    Smol,
    /// SmolLM2-360M: 32 layers of width 960, tied embeddings.
    #[value(name = "360m")]
    Medium,
    /// One layer of Mistral-7B and its embedding, tied: matrices of 4096 × 14336.
    #[value(name = "7b-layer")]
    LargeLayer,
}

/// Fields of `config.json`.
struct Sizes {
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocabulary: usize,
}

impl Shape {
    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Smol => "135m",
            Self::Medium => "360m",
            Self::LargeLayer => "7b-layer",
        }
    }

    fn sizes(self) -> Sizes {
        match self {
            Self::Smol => {
                Sizes { hidden: 576, inner: 1536, layers: 30, heads: 9, kv_heads: 3, vocabulary: 49152 }
            }
            Self::Medium => {
                Sizes { hidden: 960, inner: 2560, layers: 32, heads: 15, kv_heads: 5, vocabulary: 49152 }
            }
            Self::LargeLayer => {
                Sizes { hidden: 4096, inner: 14336, layers: 1, heads: 32, kv_heads: 8, vocabulary: 32000 }
            }
        }
    }
}

impl Sizes {
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let Self { hidden, inner, heads, kv_heads, .. } = *self;
        let keys = hidden / heads * kv_heads;
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocabulary, hidden])];
        for layer in 0..self.layers {
            for (name, shape) in [
                ("input_layernorm", vec![hidden]),
                ("self_attn.q_proj", vec![hidden, hidden]),
                ("self_attn.k_proj", vec![keys, hidden]),
                ("self_attn.v_proj", vec![keys, hidden]),
                ("self_attn.o_proj", vec![hidden, hidden]),
                ("post_attention_layernorm", vec![hidden]),
                ("mlp.gate_proj", vec![inner, hidden]),
                ("mlp.up_proj", vec![inner, hidden]),
                ("mlp.down_proj", vec![hidden, inner]),
            ] {
                tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
            }
        }
        tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
        tensors
    }
}

/// A base and vectors in a temporary folder.
pub(crate) struct RandomFamily {
    folder: tempfile::TempDir,
    pub(crate) vectors: Vec<PathBuf>,
}

impl RandomFamily {
    /// An engine with a coefficient per vector, for bf16 weights.
    pub(crate) fn engine(&self, memory: Option<u64>) -> Result<Engine> {
        let base = BaseModel::open(&self.base())?;
        let vectors = self
            .vectors
            .iter()
            .map(|path| AlignmentVector::open(path, &base))
            .collect::<Result<Vec<_>, _>>()?;
        let coefficients: Vec<Coefficient> =
            (0..vectors.len()).map(|index| Coefficient::whole(format!("c{index}"), index)).collect();
        Ok(Engine::load_on(&Device::cpu(), memory, base, vectors, &coefficients, WeightType::Bf16)?)
    }

    /// Writes a bf16 base and bf16 delta files; they go away with the value.
    pub(crate) fn write(shape: Shape, vectors: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let sizes = shape.sizes();
        let base = folder.path().join("base");
        std::fs::create_dir(&base)?;
        write_companions(&base, &sizes)?;
        write_tensors(&base.join("model.safetensors"), &sizes, 1, 0x3d00)?;
        let vectors = write_vectors(folder.path(), shape, vectors)?;
        Ok(Self { folder, vectors })
    }

    /// The base model's folder.
    pub(crate) fn base(&self) -> PathBuf {
        self.folder.path().join("base")
    }
}

/// Writes random bf16 delta files `vector0.safetensors …` for a model of this shape; says where.
pub(crate) fn write_vectors(folder: &Path, shape: Shape, vectors: usize) -> Result<Vec<PathBuf>> {
    (0..vectors)
        .map(|index| {
            let path = folder.join(format!("vector{index}.safetensors"));
            write_tensors(&path, &shape.sizes(), 2 + index as u64, 0x3900)?;
            Ok(path)
        })
        .collect()
}

/// Writes every tensor as bf16 numbers of random sign and mantissa around the magnitude whose upper byte is given.
fn write_tensors(path: &Path, sizes: &Sizes, seed: u64, magnitude: u16) -> Result<()> {
    let mut header = Map::new();
    let mut offset = 0;
    for (name, shape) in sizes.tensors() {
        let end = offset + 2 * shape.iter().product::<usize>();
        header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut header = Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let mut bytes = vec![0; 1 << 20];
    let mut left = offset;
    while left > 0 {
        let part = left.min(bytes.len());
        generator.fill_bytes(&mut bytes[..part]);
        for raw in bytes[..part].as_chunks_mut::<2>().0 {
            *raw = (u16::from_le_bytes(*raw) & 0x80ff | magnitude).to_le_bytes();
        }
        file.write_all(&bytes[..part])?;
        left -= part;
    }
    Ok(file.into_inner()?.sync_all()?)
}

/// Configuration, a tokenizer of words `w0 w1 …`, and ChatML.
fn write_companions(folder: &Path, sizes: &Sizes) -> Result<()> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": sizes.hidden, "intermediate_size": sizes.inner, "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads, "num_key_value_heads": sizes.kv_heads, "vocab_size": sizes.vocabulary,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "eos_token_id": 2,
    });
    std::fs::write(folder.join("config.json"), config.to_string())?;
    let special = ["<unk>", "<|im_start|>", "<|im_end|>"];
    let words = special.iter().map(|word| (*word).to_owned());
    let words = words.chain((0..sizes.vocabulary - special.len()).map(|id| format!("w{id}")));
    let vocabulary: Map<String, Value> = words.enumerate().map(|(id, word)| (word, json!(id))).collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string())?;
    let template = "{% for message in messages %}{{ '<|im_start|> ' + message['role'] + ' ' + message['content'] + \
                    ' <|im_end|> ' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|> assistant ' }}{% endif %}";
    let tokenizer_config = json!({"eos_token": "<|im_end|>", "chat_template": template});
    Ok(std::fs::write(folder.join("tokenizer_config.json"), tokenizer_config.to_string())?)
}
