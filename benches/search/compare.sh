#!/usr/bin/env bash
# Our bayesian search beside Optuna 5's samplers, on the pocket family's recorded grid and on the synthetic surfaces.
#
# usage: benches/search/compare.sh [FOLDER]     FOLDER for results and the picture (default target/search-comparison)
#   SEEDS      runs per sampler and surface (default 20)
#   GP_SEEDS   of GPSampler, whose runs take minutes (default 2)
#   SURFACES   names of surfaces, or "all" (default), or "none": the pocket grid only
#   SAMPLERS   of Optuna (default random,tpe,cmaes,gp)
#   JOBS       Optuna's processes (default: all cores)
#   PROFILE    cargo's profile (default release)
#   PYTHON     a Python that has optuna, cmaes, torch, scipy, numpy and matplotlib (default: a temporary one is
#              made from PyPI; torch, which GPSampler is made with, takes some gigabytes)
#
# Results of an earlier run in FOLDER are kept: only what is missing is run.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-target/search-comparison}
seeds=${SEEDS:-20}
SURFACES=${SURFACES:-all}
profile=${PROFILE:-release}
export PYTHONDONTWRITEBYTECODE=1

if [[ -z ${PYTHON:-} ]]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install --quiet 'optuna>=5,<6' cmaes torch scipy numpy matplotlib
  PYTHON=$work/venv/bin/python
fi

cargo build --locked --profile "$profile" -p avsweep-bench-search
case $profile in dev) built=debug ;; *) built=$profile ;; esac
bench=${CARGO_TARGET_DIR:-target}/$built/avsweep-bench-search

mkdir -p "$folder/grids" "$folder/ours" "$folder/optuna"
"$bench" dump examples/pocket/pocket.avgrid "$folder/grids"
if [[ $SURFACES != none ]]; then
  for surface in ${SURFACES/#all/surfaces}; do "$bench" dump "$surface" "$folder/grids"; done
fi

for grid in "$folder"/grids/*.npy; do
  name=$(basename "$grid" .npy)
  # What is written under another name first is whole when it has its own.
  if [[ ! -e $folder/ours/$name.csv ]]; then
    if [[ $name == pocket ]]; then source=examples/pocket/pocket.avgrid; else source=$name; fi
    "$bench" replay "$source" --strategy bayesian --budget 200 --min-gain 0 --seeds "$seeds" --csv "$folder/ours/$name.part"
    mv "$folder/ours/$name.part" "$folder/ours/$name.csv"
  fi
  if [[ ! -e $folder/optuna/$name.csv ]]; then
    "$PYTHON" benches/search/optuna_peer.py "$grid" --seeds "$seeds" --gp-seeds "${GP_SEEDS:-2}" \
      --samplers "${SAMPLERS:-random,tpe,cmaes,gp}" --jobs "${JOBS:-$(nproc)}" >"$folder/optuna/$name.part"
    mv "$folder/optuna/$name.part" "$folder/optuna/$name.csv"
  fi
done
"$PYTHON" benches/search/compare.py --ours "$folder"/ours/*.csv --optuna "$folder"/optuna/*.csv \
  --picture "$folder/regret.svg" | tee "$folder/table.md"
