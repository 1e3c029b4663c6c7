#!/usr/bin/env bash
# Ours beside the peers, in turns on the same cores; prints tables of ratios. Exits with 1 when results differ.
#
# usage: benches/engine/compare.sh [TURNS]          (default 3; every turn runs ours, then each peer)
#   WHAT      "merge run" by default: merging beside torch and plain copying; scoring and generating beside transformers
#             and llama.cpp
#   SHAPES    models to merge (default "135m 7b-layer")
#   MODEL     folder of a Llama-family model to run besides the pocket model (SmolLM2-135M-Instruct, say)
#   THREADS   threads of all (default: all cores)
#   PROFILE   cargo's profile (default release)
#   PYTHON    a Python that has torch, transformers, gguf and llama-cpp-python (default: a temporary one is made, with
#             these from PyPI; llama.cpp is then compiled, or left out where that fails)
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [[ -z ${PYTHON:-} ]]; then
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install --quiet torch numpy transformers safetensors gguf
  "$work/venv/bin/pip" install --quiet llama-cpp-python || echo "llama-cpp-python cannot be had: left out" >&2
  PYTHON=$work/venv/bin/python
fi
profile=${PROFILE:-release}
threads=${THREADS:-$(nproc)}
what=${WHAT:-merge run}
cargo build --locked --profile "$profile" -p avsweep-bench-engine
folder=$profile
[[ $profile == dev ]] && folder=debug
bench=${CARGO_TARGET_DIR:-target}/$folder/avsweep-bench-engine

if [[ $what == *merge* ]]; then
  for shape in ${SHAPES:-135m 7b-layer}; do
    for _ in $(seq "${1:-3}"); do
      RAYON_NUM_THREADS=$threads "$bench" merge --shape "$shape" >> "$work/ours"
      "$PYTHON" benches/engine/merge_torch.py "$shape" 3 7 "$threads" >> "$work/torch"
    done
  done
  python3 benches/engine/table.py "$work/ours" "$work/torch"
fi
if [[ $what == *run* ]]; then
  models=("pocket=examples/pocket/base:examples/pocket/medical.jsonl:60:60")
  # Some queries of every domain: a larger model takes long.
  cat examples/pocket/{medical,legal,financial}.jsonl | awk 'NR % 7 == 1' > "$work/queries.jsonl"
  [[ -n ${MODEL:-} ]] && models+=("$(basename "$MODEL")=$MODEL:$work/queries.jsonl:24:16")
  "$PYTHON" benches/engine/compare_run.py "$bench" "$threads" "${1:-3}" "${models[@]}"
fi
