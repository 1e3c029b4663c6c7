#!/usr/bin/env python3
"""Makes the goldens of LoRA adapters: small random ones on two of the base models here, and what PEFT merges them to.

    python3 -m venv VENV && VENV/bin/pip install torch transformers peft
    VENV/bin/python engine/goldens/lora.py            # rewrites engine/goldens/lora/

Per adapter, expected.json holds the Euclidean norm of what PEFT's merge changed in every tensor, and last logits of the
merged model and of the one halfway to it. Everything is seeded; versions are recorded.

    plain      f32, three kinds of modules, named by their ends
    patterns   rsLoRA, ranks and alphas by name and by regular expression, modules by a regular expression, bf16
    saved      output head and all norms saved whole, one layer and a module of the other left out
    embedded   embedding and output head as products, next to copies of the base's own
    tied       a base with tied embeddings: embedding and head saved whole, alike
"""
import json
import shutil
import sys
import warnings
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
OUT = HERE / "lora"
TOKENS = [1, 40, 77, 120, 9, 200, 33]

ADAPTERS = {
    "plain": ("untied", torch.float32, dict(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"])),
    "patterns": ("untied", torch.bfloat16, dict(
        r=3, lora_alpha=8, use_rslora=True, target_modules=r"model\.layers\.\d+\.(self_attn\.[qko]_proj|mlp\.(up|gate)_proj)",
        rank_pattern={r"layers\.1\.self_attn\.q_proj": 6, "up_proj": 2, "^model.layers.0.mlp.gate_proj": 5},
        alpha_pattern={"o_proj": 3, r"model.layers.[01].mlp.up_proj": 16, "q_pro": 99})),
    "saved": ("untied", torch.float32, dict(
        r=2, lora_alpha=3, target_modules=["k_proj", "gate_proj", "up_proj"], exclude_modules=["layers.1.mlp.gate_proj"],
        modules_to_save=["lm_head", "norm"], layers_to_transform=[1])),
    "embedded": ("untied", torch.float32, dict(r=2, lora_alpha=4, target_modules=["embed_tokens", "lm_head"])),
    "tied": ("tied", torch.float32, dict(
        r=2, lora_alpha=2, target_modules=["q_proj", "up_proj"], modules_to_save=["embed_tokens", "lm_head"])),
}


def write(name, base, dtype, fields):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(len(name))
    model = AutoModelForCausalLM.from_pretrained(HERE / base, dtype=torch.float32)
    made = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **fields))
    made.save_pretrained(folder)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    saved = {key: value for key, value in tensors.items() if "lora_" not in key and "base_layer" not in key}
    for key, value in tensors.items():
        if key in saved:
            tensors[key] = value + 0.1 * torch.randn_like(value)
        elif "lora_" in key:
            tensors[key] = 0.2 * torch.randn_like(value).to(dtype)
    if base == "tied":
        tensors["base_model.model.lm_head.weight"] = tensors["base_model.model.model.embed_tokens.weight"].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base
    for key in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key].sort()
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")


def last_logits(model):
    with torch.no_grad():
        return [round(x, 6) for x in model(torch.tensor([TOKENS])).logits[0, -1].tolist()]


def observe(name, base):
    model = AutoModelForCausalLM.from_pretrained(HERE / base, dtype=torch.float32).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    merged = PeftModel.from_pretrained(model, OUT / name).merge_and_unload().eval()
    after = {key: value.clone() for key, value in merged.state_dict().items()}
    assert before.keys() == after.keys()
    norms = {key: (after[key].double() - before[key].double()).norm().item() for key in before}
    whole = last_logits(merged)
    merged.load_state_dict({key: before[key] + 0.5 * (after[key] - before[key]) for key in before})
    expected = {"made_with": {"peft": peft.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
                "base": base, "tokens": TOKENS, "norms": norms, "last_logits": whole, "last_logits_halfway": last_logits(merged)}
    (OUT / name / "expected.json").write_text(json.dumps(expected) + "\n")
    changed = sum(norm > 0 for norm in norms.values())
    print(f"{name}: {changed} of {len(norms)} tensors change", file=sys.stderr)


warnings.filterwarnings("ignore")
for name, (base, dtype, fields) in ADAPTERS.items():
    write(name, base, dtype, fields)
    observe(name, base)
