#!/usr/bin/env bash
# Our merge beside torch's and beside plain copying, in turns on the same cores; prints a table of ratios.
#
# usage: benches/engine/compare.sh [TURNS]          (default 3; every turn runs ours, then torch)
#   SHAPES    models to merge (default "135m 7b-layer")
#   THREADS   threads of both (default: all cores)
#   PROFILE   cargo's profile (default release)
#   PYTHON    a Python that has torch (default: a temporary one is made, with torch from PyPI)
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [[ -z ${PYTHON:-} ]]; then
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install --quiet torch numpy
  PYTHON=$work/venv/bin/python
fi
profile=${PROFILE:-release}
threads=${THREADS:-$(nproc)}
cargo build --locked --profile "$profile" -p avsweep-bench-engine
folder=$profile
[[ $profile == dev ]] && folder=debug
bench=${CARGO_TARGET_DIR:-target}/$folder/avsweep-bench-engine

for shape in ${SHAPES:-135m 7b-layer}; do
  for _ in $(seq "${1:-3}"); do
    RAYON_NUM_THREADS=$threads "$bench" merge --shape "$shape" >> "$work/ours"
    "$PYTHON" benches/engine/merge_torch.py "$shape" 3 7 "$threads" >> "$work/torch"
  done
done
python3 benches/engine/table.py "$work/ours" "$work/torch"
