#!/usr/bin/env python3
"""torch's straightforward merge, `base + Σ c·av` tensor by tensor in bf16, on random tensors of a shape.

usage: merge_torch.py SHAPE VECTORS ROUNDS THREADS      (prints one JSON object)
"""
import json
import statistics
import sys
import time

import torch

# Width, inner width, layers, heads, key/value heads, vocabulary: as in src/model.rs.
SHAPES = {
    "135m": (576, 1536, 30, 9, 3, 49152),
    "360m": (960, 2560, 32, 15, 5, 49152),
    "7b-layer": (4096, 14336, 1, 32, 8, 32000),
}


def tensors(shape):
    hidden, inner, layers, heads, kv_heads, vocabulary = SHAPES[shape]
    keys = hidden // heads * kv_heads
    layer = [(hidden,), (hidden, hidden), (keys, hidden), (keys, hidden), (hidden, hidden), (hidden,), (inner, hidden),
             (inner, hidden), (hidden, inner)]
    return [(vocabulary, hidden), *(layer * layers), (hidden,)]


def main():
    shape, vectors, rounds, threads = sys.argv[1], *map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    shapes = tensors(shape)
    base = [torch.randn(one).to(torch.bfloat16) for one in shapes]
    deltas = [[0.01 * torch.randn(one).to(torch.bfloat16) for one in shapes] for _ in range(vectors)]
    merged = [None] * len(base)
    seconds = []
    for turn in range(rounds + 1):
        coefficients = [0.3 + 0.1 * ((turn + index) % 7) for index in range(vectors)]
        started = time.perf_counter()
        for index, weights in enumerate(base):
            for coefficient, delta in zip(coefficients, deltas):
                weights = weights + coefficient * delta[index]
            merged[index] = weights
        if turn:
            seconds.append(time.perf_counter() - started)
    parameters = sum(one.numel() for one in base)
    print(json.dumps({"torch": torch.__version__, "shape": shape, "parameters": parameters, "vectors": vectors,
                      "threads": threads, "seconds": statistics.median(seconds)}))


main()
