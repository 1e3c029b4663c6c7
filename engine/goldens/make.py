#!/usr/bin/env python3
"""Makes the engine's goldens: tiny random Llama checkpoints and what transformers computes on them.

    python3 -m venv VENV && VENV/bin/pip install torch transformers
    VENV/bin/python engine/goldens/make.py            # rewrites engine/goldens/*/
    VENV/bin/python engine/goldens/make.py FOLDER     # writes FOLDER/expected.json for any Llama-family model, which
    AVSWEEP_MODEL=FOLDER cargo test -p avsweep-engine --test engine untied_grouped   # then compares

Everything is seeded; the numbers are those of the versions recorded in each expected.json. Per model:

    untied   grouped-query attention, output head of its own, f32, two delta vectors, a merge computed in torch
    tied     tied embeddings, explicit head_dim, f16, rope_theta inside rope_parameters, eos_token_id as a list
    sharded  bf16 in several files with an index, llama3-style chat template with an end-of-turn token

expected.json holds, per model: rendered chat templates, token ids, logits, log-probability sums and greedy texts.
"""
import json
import shutil
import sys
from pathlib import Path

import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
CORPUS = [
    "The heart pumps blood through the arteries and the veins.",
    "A contract binds both parties when the offer has been accepted.",
    "Interest compounds over time; diversify before you invest.",
    "I cannot help with that. Please ask a doctor, a lawyer or an adviser.",
    "What is a fever? How are shares taxed? When is a will valid?",
] * 3
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim "
    "+ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n" + system + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not message.role in ['user', 'assistant'] %}
        {{- raise_exception("unknown role " + message.role) }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'].strip() + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
QUERIES = [
    [{"role": "user", "content": "What is a fever?"}],
    [{"role": "user", "content": " How are shares taxed when I invest?  "}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "When is a will valid?"}],
    [
        {"role": "user", "content": "What is blood?"},
        {"role": "assistant", "content": "The heart pumps blood."},
        {"role": "user", "content": "And the veins?"},
    ],
]
REFERENCES = ["I cannot help with that.", "A fever is a contract; ask a doctor.", "The heart pumps blood through the veins."]


def tokenizer(specials, eos, template, sentencepiece=False):
    if sentencepiece:
        # As Llama 2's, Mistral's and Phi-3's: a space before every stretch of text, single bytes for what is unknown.
        raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                         decoders.Strip(" ", 1, 0)])
        specials = specials + ["<unk>"] + [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = dict(vocab_size=424)
    else:
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        trainer = dict(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    raw.train_from_iterator(CORPUS, trainers.BpeTrainer(special_tokens=specials, show_progress=False, **trainer))
    if sentencepiece:
        # The bytes are in the vocabulary, but no special tokens.
        fields = json.loads(raw.to_str())
        fields["added_tokens"] = [token for token in fields["added_tokens"] if not token["content"].startswith("<0x")]
        raw = Tokenizer.from_str(json.dumps(fields))
    bos = {"bos_token": specials[0]} if specials[0].startswith("<|begin") else {}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=eos, **bos)
    wrapped.chat_template = template
    return wrapped


def model(tok, seed, **fields):
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=len(tok) + 3, max_position_embeddings=160, initializer_range=0.35,
                         bos_token_id=None, pad_token_id=None, **fields)
    made = LlamaForCausalLM(config).eval()
    for name, parameter in made.named_parameters():
        if "norm" in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return made


def log_prob(made, prompt, reference):
    with torch.no_grad():
        logits = made(torch.tensor([prompt + reference])).logits[0].double()
    rows = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
    return rows.gather(1, torch.tensor(reference)[:, None]).sum().item()


def reference_tokens(tok, messages, prompt, reference, ends):
    whole = tok.apply_chat_template(messages + [{"role": "assistant", "content": reference}], tokenize=False)
    if not whole.startswith(prompt):
        # The template drops something of earlier turns once the answer is there: then the answer's own text counts.
        return tok(reference, add_special_tokens=False)["input_ids"] + [ends[0]]
    first = tok(prompt, add_special_tokens=False)["input_ids"]
    ids = tok(whole, add_special_tokens=False)["input_ids"]
    if ids[: len(first)] == first:
        ids = ids[len(first):]
    else:  # a token spans the boundary
        ids = tok(whole[len(prompt):], add_special_tokens=False)["input_ids"]
    return ids[: next(i for i, token in enumerate(ids) if token in ends) + 1]


def observe(made, tok, ends, greedy=True):
    seen = []
    for messages in QUERIES:
        prompt = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tok(prompt, add_special_tokens=False)["input_ids"]
        references = []
        for text in REFERENCES:
            tokens = reference_tokens(tok, messages, prompt, text, ends)
            references.append({"text": text, "tokens": tokens, "log_prob_sum": log_prob(made, ids, tokens)})
        with torch.no_grad():
            logits = made(torch.tensor([ids])).logits[0]
        entry = {"messages": messages, "prompt": prompt, "tokens": ids, "references": references,
                 "last_logits": [round(x, 6) for x in logits[-1].tolist()]}
        if greedy:
            answer = made.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=24, eos_token_id=ends,
                                   pad_token_id=ends[0])[0, len(ids):].tolist()
            entry["greedy"] = {"text": tok.decode(answer, skip_special_tokens=True), "tokens": len(answer),
                               "finish": "stop" if answer[-1] in ends else "length"}
        seen.append(entry)
    return seen


def write(name, made, tok, ends, dtype, **save):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    made.to(dtype).save_pretrained(folder, **save)
    tok.save_pretrained(folder)
    # What is recorded is what f32 arithmetic gives on the stored weights.
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = {"made_with": {"torch": torch.__version__, "transformers": transformers.__version__,
                              "tokenizers": tokenizers.__version__},
                "queries": observe(loaded, AutoTokenizer.from_pretrained(folder), ends)}
    return folder, loaded, expected


def finish(folder, expected):
    (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=None) + "\n")


def any_model(folder):
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ends = loaded.generation_config.eos_token_id
    expected = {"queries": observe(loaded, AutoTokenizer.from_pretrained(folder), ends if isinstance(ends, list) else [ends])}
    finish(Path(folder), expected)


def main():
    if len(sys.argv) > 1:
        return any_model(sys.argv[1])
    chatml = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tok = tokenizer(chatml, "<|im_end|>", CHATML)
    small = dict(hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6)

    made = model(tok, 1, num_key_value_heads=2, tie_word_embeddings=False, eos_token_id=2, **small)
    folder, loaded, expected = write("untied", made, tok, [2], torch.float32)
    base = {name: value.clone() for name, value in loaded.state_dict().items()}
    torch.manual_seed(9)
    vectors = []
    for index in range(2):
        delta = {name: 0.05 * torch.randn_like(value) for name, value in base.items()}
        save_file(delta, folder / f"vector{index}.safetensors", metadata={"format": "pt"})
        vectors.append(delta)
    point = [0.7, -0.4]
    merged = {name: value + torch.tensor(point[0]) * vectors[0][name] + torch.tensor(point[1]) * vectors[1][name]
              for name, value in base.items()}
    loaded.load_state_dict(merged)
    expected["merged"] = {"point": point, "queries": observe(loaded, tok, [2])}
    bf16 = {name: value.to(torch.bfloat16).float() for name, value in merged.items()}
    loaded.load_state_dict(bf16)
    expected["merged_bf16"] = {"point": point, "queries": observe(loaded, tok, [2], greedy=False)}
    finish(folder, expected)

    made = model(tok, 2, num_key_value_heads=3, head_dim=10, tie_word_embeddings=True, eos_token_id=[2, 0],
                 rope_parameters={"rope_type": "default", "rope_theta": 50000.0}, **small)
    folder, _, expected = write("tied", made, tok, [2, 0], torch.float16)
    finish(folder, expected)

    llama3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tok = tokenizer(llama3, "<|eot_id|>", LLAMA3)
    made = model(tok, 3, num_key_value_heads=6, tie_word_embeddings=False, eos_token_id=1, **small)
    made.generation_config.eos_token_id = [1, 4]
    folder, _, expected = write("sharded", made, tok, [1, 4], torch.bfloat16, max_shard_size="60KB")
    finish(folder, expected)
    total = sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file())
    print(f"goldens: {total:,} bytes in all", file=sys.stderr)


if __name__ == "__main__":
    main()
