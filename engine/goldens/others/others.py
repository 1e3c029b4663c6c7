#!/usr/bin/env python3
"""Goldens of decoders that run the slow way, by candle-transformers: tiny random checkpoints and what transformers
computes on them.

    VENV/bin/python engine/goldens/others/others.py            # rewrites engine/goldens/others/*/

Everything is seeded; expected.json holds what ../make.py's do, and a point merged in torch.
"""
import shutil
import sys
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))
import make  # noqa: E402

SHAPE = dict(vocab_size=432, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=192, bos_token_id=None, pad_token_id=None, eos_token_id=2,
             initializer_range=0.3)
FAMILIES = {
    "phi": dict(SHAPE, num_key_value_heads=4, partial_rotary_factor=0.5, hidden_act="gelu_new"),
    "starcoder2": dict(SHAPE, use_bias=True, tie_word_embeddings=True, sliding_window=None, rope_theta=1000.0),
    "olmo2": dict(SHAPE, rope_theta=5e4),
    "mixtral": dict(SHAPE, num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
    "helium": dict(SHAPE, head_dim=8),
}


def main():
    make.HERE = HERE
    for seed, (name, fields) in enumerate(FAMILIES.items()):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        torch.manual_seed(seed)
        tok = make.tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>", make.CHATML)
        config = transformers.AutoConfig.for_model(name, **dict(fields, vocab_size=len(tok) + 3))
        made = transformers.AutoModelForCausalLM.from_config(config).eval()
        for parameter_name, parameter in made.named_parameters():
            if "norm" in parameter_name or "bias" in parameter_name:
                parameter.data += 0.2 * torch.randn_like(parameter)
        folder, loaded, expected = make.write(name, made, tok, [2], torch.bfloat16)
        with safe_open(folder / "model.safetensors", "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        delta = {key: (0.05 * torch.randn(value.shape)).to(torch.bfloat16) for key, value in tensors.items()}
        save_file(delta, folder / "vector0.safetensors", metadata={"format": "pt"})
        for key, value in tensors.items():
            tensors[key] = (value.float() - 0.6 * delta[key].float()).float()
        merged = folder / "merged"
        loaded.config.save_pretrained(merged)
        save_file(tensors, merged / "model.safetensors", metadata={"format": "pt"})
        at_point = transformers.AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
        expected["merged"] = {"point": [-0.6], "queries": make.observe(at_point, tok, [2])}
        shutil.rmtree(merged)
        make.finish(folder, expected)


if __name__ == "__main__":
    main()
