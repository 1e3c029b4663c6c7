#!/usr/bin/env bash
# How much of a sweep's wall time is spent inside merging, scoring and generation: one coordinator, one worker, a grid of
# 100 points with three random vectors, every point scored and answered.
#
# usage: benches/engine/share.sh MODEL            a folder with SmolLM2-135M's shapes (SmolLM2-135M-Instruct)
#   QUERIES   search queries a domain (default 4)
#   PROFILE   cargo's profile (default release)
set -euo pipefail
cd "$(dirname "$0")/../.."
model=$(realpath "$1")
queries=${QUERIES:-4}
profile=${PROFILE:-release}
cargo build --locked --profile "$profile" -p avsweep-cli -p avsweep-bench-engine
folder=$profile
[[ $profile == dev ]] && folder=debug
bin=${CARGO_TARGET_DIR:-target}/$folder

work=$(mktemp -d)
pids=()
trap '((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null; rm -rf "$work"' EXIT
"$bin/avsweep-bench-engine" vectors "$work"
for domain in medical legal financial; do head -n $((queries + 1)) "examples/pocket/$domain.jsonl" > "$work/$domain.jsonl"; done
cat > "$work/sweep.yaml" <<YAML
name: share
model: {base: $model, dtype: f32}
vectors: {v0: vector0.safetensors, v1: vector1.safetensors, v2: vector2.safetensors}
coefficients:
  alpha: {vector: v0, min: -1, max: 1, step: 0.5}
  beta: {vector: v1, min: -1, max: 1, step: 0.5}
  gamma: {vector: v2, min: -0.5, max: 1, step: 0.5}
levels: [avoidance, generic, expert]
domains: {medical: {queries: medical.jsonl}, legal: {queries: legal.jsonl}, financial: {queries: financial.jsonl}}
strategy: {kind: grid}
evaluation: {likelihood: all, generation: all, search_queries: $queries, confirm_queries: 1, max_new_tokens: 32}
judge: {provider: reference}
YAML

port=$((20000 + RANDOM % 20000))
"$bin/avsweep" coordinator --store "$work/avsweep.db" --listen "127.0.0.1:$port" --metrics-listen "127.0.0.1:$((port + 1))" \
  2> "$work/coordinator.log" & pids+=($!)
for _ in $(seq 100); do curl -fsS "http://127.0.0.1:$((port + 1))/readyz" > /dev/null 2>&1 && break; sleep 0.1; done
url=http://127.0.0.1:$port
"$bin/avsweep" sweep create "$work/sweep.yaml" --coordinator "$url" > /dev/null
"$bin/avsweep" judge --coordinator "$url" 2> "$work/judge.log" & pids+=($!)
started=$(date +%s.%N)
"$bin/avsweep" worker --coordinator "$url" --model-root / 2> "$work/worker.log" & pids+=($!)
"$bin/avsweep" sweep watch share --coordinator "$url" > /dev/null
ended=$(date +%s.%N)
curl -fsS "http://127.0.0.1:$((port + 1))/metrics" > "$work/metrics"
python3 - "$work/metrics" "$started" "$ended" <<'PYTHON'
import re, sys
text = open(sys.argv[1]).read()
wall = float(sys.argv[3]) - float(sys.argv[2])

def seconds(name):
    found = re.findall(rf"^avsweep_{name}_seconds_total({{.*}})? (\S+)$", text, re.M)
    return sum(float(value) for labels, value in found if "judge" not in labels)

load, merge, evaluate = (seconds(name) for name in ("load", "merge", "evaluate"))
print(f"wall {wall:.1f} s, from the worker's start to the sweep's end; loading the model {load:.1f} s")
print(f"merging {merge:.1f} s, scoring and generating {evaluate:.1f} s: {(merge + evaluate) / wall:.1%} of the wall time")
PYTHON
