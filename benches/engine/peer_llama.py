#!/usr/bin/env python3
"""llama.cpp generating through llama-cpp-python's low-level interface: a round for every line of standard input.

usage: peer_llama.py MODEL QUERIES f32|f16 THREADS NEW_TOKENS

Writes the Llama-family folder as a GGUF file of that type first. All sequences are decoded together, 16 at most; the place
of one that has ended goes to the next prompt at once. Prompts and texts pass through the folder's own tokenizer, so the file has none.
"""
import ctypes
import json
import os
import sys
import tempfile
import time

import gguf
import llama_cpp as llama
import numpy
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

PLACES, CONTEXT = 16, 256
folder, path, kind, threads, new_tokens = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])

NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name):
    stem = name.removesuffix(".weight")
    if stem in TOP:
        return f"{TOP[stem]}.weight"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.weight"


def interleaved(rows, heads):
    """llama.cpp turns neighbouring elements of a head by one angle, checkpoints have them half a head apart."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, rows.shape[1])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def write_gguf(out):
    config = AutoConfig.from_pretrained(folder)
    if config.model_type != "llama" or config.rope_parameters.get("rope_type", "default") != "default":
        sys.exit(f"{folder}: found model_type {config.model_type} and {config.rope_parameters}, wanted plain llama")
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(0 if kind == "f32" else 1)
    with safe_open(os.path.join(folder, "model.safetensors"), "pt") as file:
        for name in file.keys():
            values = file.get_tensor(name).float().numpy()
            for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
                if name.endswith(f"{part}.weight"):
                    values = interleaved(values, heads)
            # Norms stay f32, as llama.cpp's own converter has them.
            narrow = kind == "f16" and values.ndim == 2
            writer.add_tensor(gguf_name(name), numpy.ascontiguousarray(values, "float16" if narrow else "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def open_context(out):
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(out.encode(), llama.llama_model_default_params())
    params = llama.llama_context_default_params()
    params.n_ctx = PLACES * CONTEXT
    params.n_batch = PLACES * CONTEXT
    params.n_seq_max = PLACES
    params.n_threads = params.n_threads_batch = threads
    if kind == "f32":
        params.type_k = params.type_v = 0  # GGML_TYPE_F32
    context = llama.llama_init_from_model(model, params)
    if not context:
        sys.exit("llama.cpp refused the model")
    return model, context


class Decoder:
    def __init__(self, context, vocabulary):
        self.context, self.vocabulary = context, vocabulary
        self.batch = llama.llama_batch_init(PLACES * CONTEXT, 0, 1)

    def decode(self, entries):
        """Takes (token, position, place, asked) in; returns the most probable token after each that is asked for."""
        for index, (token, position, place, asked) in enumerate(entries):
            self.batch.token[index] = token
            self.batch.pos[index] = position
            self.batch.n_seq_id[index] = 1
            self.batch.seq_id[index][0] = place
            self.batch.logits[index] = asked
        self.batch.n_tokens = len(entries)
        if llama.llama_decode(self.context, self.batch) != 0:
            sys.exit("llama_decode failed")
        chosen = []
        for index, (*_, asked) in enumerate(entries):
            if asked:
                logits = llama.llama_get_logits_ith(self.context, index)
                chosen.append(int(numpy.ctypeslib.as_array(logits, (self.vocabulary,)).argmax()))
        return chosen

    def generate(self, prompts, ends):
        memory = llama.llama_get_memory(self.context)
        llama.llama_memory_clear(memory, True)
        made = [[] for _ in prompts]
        waiting, free, active = list(range(len(prompts))), list(range(PLACES)), {}
        while waiting or active:
            entries, owners = [], []
            for place, item in active.items():
                position = len(prompts[item]) + len(made[item]) - 1
                entries.append((made[item][-1], position, place, True))
                owners.append((place, item))
            while waiting and free:
                place, item = free.pop(), waiting.pop(0)
                llama.llama_memory_seq_rm(memory, place, -1, -1)
                last = len(prompts[item]) - 1
                entries += [(token, at, place, at == last) for at, token in enumerate(prompts[item])]
                active[place] = item
                owners.append((place, item))
            for (place, item), token in zip(owners, self.decode(entries)):
                made[item].append(token)
                if token in ends or len(made[item]) >= new_tokens:
                    del active[place]
                    free.append(place)
        return made


silent = llama.llama_log_callback(lambda level, text, data: None)
llama.llama_log_set(silent, ctypes.c_void_p(0))
tokenizer = AutoTokenizer.from_pretrained(folder)
ends = GenerationConfig.from_pretrained(folder).eos_token_id
ends = ends if isinstance(ends, list) else [ends]
prompts = []
for line in open(path):
    messages = [{"role": "user", "content": json.loads(line)["query"]}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompts.append(tokenizer(text, add_special_tokens=False)["input_ids"])
with tempfile.TemporaryDirectory() as scratch:
    out = os.path.join(scratch, "model.gguf")
    write_gguf(out)
    model, context = open_context(out)
decoder = Decoder(context, llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model)))
decoder.generate(prompts[:2], ends)
for line in sys.stdin:
    started = time.perf_counter()
    made = decoder.generate(prompts, ends)
    seconds = time.perf_counter() - started
    texts = [[tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False), len(tokens)] for tokens in made]
    print(json.dumps({"seconds": seconds, "texts": texts, "way": f"batch {PLACES}"}), flush=True)
