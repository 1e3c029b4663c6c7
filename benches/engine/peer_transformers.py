#!/usr/bin/env python3
"""Hugging Face transformers scoring or generating: a round for every line of standard input, one JSON object each.

usage: peer_transformers.py score|generate MODEL QUERIES DTYPE THREADS NEW_TOKENS

Before the first round every way of running is timed once, and the fastest one is kept: batch sizes; for scoring, also the
output head on all positions or on the references' alone. Batches are sorted by length, so that little is padded.
"""
import json
import sys
import time

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

transformers.logging.set_verbosity_error()
task, folder, path, dtype, threads, new_tokens = sys.argv[1:]
torch.set_num_threads(int(threads))
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
ends = model.generation_config.eos_token_id
ends = ends if isinstance(ends, list) else [ends]
queries = [json.loads(line) for line in open(path)]


def encoded(text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def prompts():
    for query in queries:
        messages = [{"role": "user", "content": query["query"]}]
        yield messages, tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def references():
    """(prompt, reference) as tokens, the token that ends the turn included, levels in the alphabet's order."""
    for query, (messages, prompt) in zip(queries, prompts()):
        first = encoded(prompt)
        for _, text in sorted(query["references"].items()):
            turn = messages + [{"role": "assistant", "content": text}]
            tokens = encoded(tokenizer.apply_chat_template(turn, tokenize=False))
            if tokens[: len(first)] != first:
                sys.exit(f"prompt and reference do not part between two tokens: {text!r}")
            tokens = tokens[len(first):]
            yield first, tokens[: next(i for i, token in enumerate(tokens) if token in ends) + 1]


def batches(lengths, size):
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[start : start + size] for start in range(0, len(order), size)]


def score(pairs, size, everywhere):
    scores = [None] * len(pairs)
    for batch in batches([len(first) + len(tokens) for first, tokens in pairs], size):
        width = max(len(pairs[index][0]) + len(pairs[index][1]) for index in batch)
        ids = torch.zeros((len(batch), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        rows, columns, wanted = [], [], []
        for row, index in enumerate(batch):
            first, tokens = pairs[index]
            length = len(first) + len(tokens)
            ids[row, :length] = torch.tensor(first + tokens)
            mask[row, :length] = 1
            rows += [row] * len(tokens)
            columns += range(len(first) - 1, length - 1)
            wanted += tokens
        if everywhere:
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[rows, columns]
        else:
            states = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            logits = model.lm_head(states[rows, columns])
        chosen = torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(wanted)[:, None])[:, 0].double()
        for index, part in zip(batch, chosen.split([len(pairs[index][1]) for index in batch])):
            scores[index] = [part.sum().item(), len(part)]
    return {"scores": scores, "positions": sum(len(first) + len(tokens) for first, tokens in pairs)}


def generate(ids, size):
    texts = [None] * len(ids)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    for batch in batches([len(one) for one in ids], size):
        width = max(len(ids[index]) for index in batch)
        rows = torch.tensor([[pad] * (width - len(ids[index])) + ids[index] for index in batch])
        mask = torch.tensor([[0] * (width - len(ids[index])) + [1] * len(ids[index]) for index in batch])
        made = model.generate(input_ids=rows, attention_mask=mask, do_sample=False, max_new_tokens=int(new_tokens),
                              pad_token_id=pad)
        for index, tokens in zip(batch, made[:, width:].tolist()):
            end = next((i for i, token in enumerate(tokens) if token in ends), len(tokens) - 1)
            tokens = tokens[: end + 1]
            text = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            texts[index] = [text, len(tokens)]
    return {"texts": texts}


def timed(run):
    started = time.perf_counter()
    with torch.inference_mode():
        result = run()
    return {"seconds": time.perf_counter() - started, **result}


if task == "score":
    pairs = list(references())
    ways = {f"batch {size}, head on {'all positions' if everywhere else 'references only'}":
            lambda size=size, everywhere=everywhere: score(pairs, size, everywhere)
            for size in (8, 24) for everywhere in (True, False)}
else:
    ids = [encoded(text) for _, text in prompts()]
    ways = {f"batch {size}": lambda size=size: generate(ids, size) for size in (16, 8)}
trials = {name: timed(way)["seconds"] for name, way in ways.items()}
best = min(trials, key=trials.get)
for line in sys.stdin:
    print(json.dumps({**timed(ways[best]), "way": best, "trials": trials}), flush=True)
