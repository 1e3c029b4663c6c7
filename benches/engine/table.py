#!/usr/bin/env python3
"""Prints the table of compare.sh: medians over the turns. usage: table.py OURS TORCH (JSON lines)"""
import json
import statistics
import sys


def rows(path):
    by_shape = {}
    for line in open(path):
        row = json.loads(line)
        by_shape.setdefault(row["shape"], []).append(row)
    return by_shape


def median(rows, value):
    return statistics.median(value(row) for row in rows)


ours, torch = rows(sys.argv[1]), rows(sys.argv[2])
print("| bf16 base + 3 vectors | copy GB/s | to bf16 tensors GB/s | of copy | into the decoder GB/s | of copy | torch s | ours s | times torch |")
print("|---|---|---|---|---|---|---|---|---|")
for shape, own in ours.items():
    peer = torch[shape]
    seconds, theirs = median(own, lambda row: row["tensors"]["seconds"]), median(peer, lambda row: row["seconds"])
    print(
        f"| {shape}, {own[0]['parameters'] / 1e6:.0f}M parameters, {own[0]['threads']} threads "
        f"| {median(own, lambda row: row['copy_gb_per_s']):.1f} "
        f"| {median(own, lambda row: row['tensors']['gb_per_s']):.1f} | {median(own, lambda row: row['tensors']['of_copy']):.2f} "
        f"| {median(own, lambda row: row['decoder']['gb_per_s']):.1f} | {median(own, lambda row: row['decoder']['of_copy']):.2f} "
        f"| {theirs:.3f} | {seconds:.3f} | {theirs / seconds:.1f} |"
    )
