#!/usr/bin/env python3
"""Goldens of every supported family: tiny random checkpoints and what transformers computes on them.

    VENV/bin/python engine/goldens/families/families.py           # transformers 5: rewrites engine/goldens/families/*/
    VENV4/bin/python engine/goldens/families/families.py configs  # transformers 4: writes each config.v4.json

Windows are shorter than every prompt, and caps, scalings and biases large enough to matter, which is checked: without
them the logits are others. The chat templates in templates/ are our own, with the means that the families' templates
use. ropes.json has the frequencies of every kind of RoPE scaling.
"""
import datetime
import json
import shutil
import sys
from pathlib import Path

import transformers

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
SHAPE = dict(vocab_size=432, hidden_size=32, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=192, bos_token_id=None, pad_token_id=None)
SIZED = dict(SHAPE, head_dim=12)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=48)
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
GEMMA = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
# Per family: its configuration in the fields of transformers 4, special tokens, stop tokens (indices of these), and
# what is taken away to see that it mattered.
FAMILIES = {
    "llama": (dict(SHAPE, model_type="llama", attention_bias=True, rope_theta=1000.0, rope_scaling=LLAMA3),
              ["<bos>", "<eos>", "<|head|>", "<|sep|>", "<|eot|>"], [1, 4], [dict(rope_scaling=None)]),
    "mistral": (dict(SIZED, model_type="mistral", sliding_window=6),
                ["<s>", "</s>", "[INST]", "[/INST]"], [1], [dict(sliding_window=None)]),
    "qwen2": (dict(SHAPE, model_type="qwen2", use_sliding_window=True, sliding_window=6, max_window_layers=2,
                   tie_word_embeddings=True, rope_theta=1e5), CHATML, [2, 0], [dict(use_sliding_window=False)]),
    "qwen3": (dict(SIZED, model_type="qwen3", rope_theta=1e6), CHATML, [2, 0], [dict(rope_theta=1e2)]),
    "gemma2": (dict(SIZED, model_type="gemma2", sliding_window=6, query_pre_attn_scalar=20,
                    attn_logit_softcapping=2.0, final_logit_softcapping=6.0), GEMMA, [1, 3],
               [dict(attn_logit_softcapping=None), dict(final_logit_softcapping=None), dict(sliding_window=192),
                dict(query_pre_attn_scalar=12)]),
    "gemma3": (dict(SIZED, model_type="gemma3_text", sliding_window=6, sliding_window_pattern=3,
                    query_pre_attn_scalar=20, rope_theta=5e4, rope_local_base_freq=500.0,
                    rope_scaling=dict(rope_type="linear", factor=8.0)), GEMMA, [1, 3],
               [dict(rope_local_base_freq=5e4), dict(rope_scaling=None), dict(sliding_window=192)]),
    "phi3": (dict(SHAPE, model_type="phi3", sliding_window=6, rope_theta=500.0, partial_rotary_factor=0.5,
                  original_max_position_embeddings=160,
                  rope_scaling=dict(type="longrope", short_factor=[1.0, 1.5], long_factor=[2.0, 30.0])),
             ["<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"], [5, 1],
             [dict(rope_scaling=dict(type="longrope", short_factor=[2.0, 30.0], long_factor=[1.0, 1.5])),
              dict(sliding_window=None), dict(original_max_position_embeddings=192)]),
}


def config(fields):
    fields = json.loads(json.dumps(fields))
    return transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)


def made(fields, ends):
    """A random model whose every weight matters; norm weights where the family has them."""
    import torch
    torch.manual_seed(len(fields))
    model = transformers.AutoModelForCausalLM.from_config(config(fields)).eval()
    for name, parameter in model.named_parameters():
        spread = 0.2 if "norm" in name else 0.5 if "bias" in name else 0.35
        parameter.data = spread * torch.randn_like(parameter) + (parameter.data if "norm" in name else 0)
    model.config.eos_token_id = ends
    model.generation_config.eos_token_id = ends
    return model


def check_it_matters(model, fields, without):
    import torch
    tokens = torch.arange(40)[None] * 7 % 400
    for change in without:
        other = made(dict(fields, **change), [])
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            difference = (model(tokens).logits - other(tokens).logits).abs().max().item()
        assert difference > 0.01, (change, difference)


def families():
    import make
    import torch
    from transformers.utils import chat_template_utils

    class Fixed(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2024, 7, 26)

    # Prompts must not depend on the day: the engine's strftime_now always has this one.
    chat_template_utils.datetime = Fixed
    ends_of = {}
    for name, (fields, specials, ends, without) in FAMILIES.items():
        ends_of[name] = ends
        tok = make.tokenizer(specials, specials[ends[0]], (HERE / "templates" / f"{name}.jinja").read_text(),
                             sentencepiece=name in ("mistral", "phi3"))
        if specials[0] in ("<s>", "<bos>"):
            tok.bos_token = specials[0]
        model = made(fields, ends)
        check_it_matters(model, fields, without)
        folder = HERE / name
        before = (folder / "config.v4.json").read_text() if (folder / "config.v4.json").is_file() else None
        shutil.rmtree(folder, ignore_errors=True)
        model.to(torch.bfloat16).save_pretrained(folder)
        tok.save_pretrained(folder)
        if before:
            (folder / "config.v4.json").write_text(before)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        reloaded = transformers.AutoTokenizer.from_pretrained(folder)
        queries = make.QUERIES
        if name == "gemma2":
            queries = [query for query in queries if query[0]["role"] != "system"]
        make.QUERIES, kept = queries, make.QUERIES
        expected = {"made_with": {"torch": torch.__version__, "transformers": transformers.__version__},
                    "queries": make.observe(loaded, reloaded, ends)}
        make.QUERIES = kept
        longest = max(len(entry["tokens"]) + max([24] + [len(r["tokens"]) for r in entry["references"]])
                      for entry in expected["queries"])
        assert longest <= fields.get("original_max_position_embeddings", 192), (name, longest)
        assert min(len(entry["tokens"]) for entry in expected["queries"]) > 6
        refused = []
        for messages in ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hm?"}],
                         [{"role": "user", "content": "Hm?"}, {"role": "user", "content": "And?"}]):
            try:
                reloaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            except Exception as error:
                refused.append({"messages": messages, "reason": str(error)})
        expected["refused"] = refused
        make.finish(folder, expected)


def ropes():
    """Frequencies and factors of every kind of scaling, from transformers' own functions."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    cases = []
    for scaling in [
        dict(rope_type="linear", factor=4.0),
        dict(rope_type="dynamic", factor=4.0),
        LLAMA3,
        dict(LLAMA3, factor=32.0, original_max_position_embeddings=8192),
        dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=1024),
        dict(rope_type="yarn", factor=40.0, original_max_position_embeddings=512, beta_fast=16.0, beta_slow=2.0,
             truncate=False),
        dict(rope_type="yarn", factor=4.0, mscale=1.0, mscale_all_dim=0.7, original_max_position_embeddings=1024),
        dict(rope_type="yarn", factor=4.0, attention_factor=1.3),
        dict(rope_type="longrope", short_factor=[1 + i / 7 for i in range(16)], long_factor=[9.0] * 16,
             original_max_position_embeddings=512),
    ]:
        for head_dim, theta in [(32, 10000.0), (32, 500000.0)]:
            fields = dict(SHAPE, model_type="llama", head_dim=head_dim, max_position_embeddings=4096,
                          rope_theta=theta, rope_scaling=dict(scaling))
            made = config(fields)
            with torch.no_grad():
                frequencies, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](made, "cpu")
            cases.append({"head_dim": head_dim, "rope_theta": theta, "rope_scaling": scaling,
                          "frequencies": frequencies.tolist(), "attention_factor": factor})
    (HERE / "ropes.json").write_text(json.dumps(cases) + "\n")


def configs():
    assert transformers.__version__.startswith("4."), "configurations of the old style"
    for name, (fields, _, ends, _) in FAMILIES.items():
        made = config(dict(fields, eos_token_id=ends))
        made.architectures = json.loads((HERE / name / "config.json").read_text())["architectures"]
        (HERE / name / "config.v4.json").write_text(made.to_json_string(use_diff=True))


if __name__ == "__main__":
    if sys.argv[1:] == ["configs"]:
        configs()
    else:
        ropes()
        families()
