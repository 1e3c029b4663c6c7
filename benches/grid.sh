#!/usr/bin/env bash
# The pocket family's full grid from nothing, then the answer for all targets from its store.
#
# usage: benches/grid.sh [REPEATS]      REPEATS of `best --all-targets` (default 21)
set -euo pipefail
cd "$(dirname "$0")/.."
repeats=${1:-21}

cargo build --release --locked
avsweep=$PWD/target/release/avsweep
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export AVSWEEP_STORE=$work/grid.db

now() { date +%s%N; }
start=$(now)
"$avsweep" run examples/pocket/grid.yaml >"$work/table.txt" 2>"$work/said.txt"
grep "points in" "$work/said.txt"
echo "grid: $((($(now) - start) / 1000000)) ms wall; $(tail -n 1 "$work/table.txt")"
echo "store: $(du -k "$AVSWEEP_STORE" | cut -f 1) KiB"

# Whole processes, as a user would run them.
for _ in $(seq "$repeats"); do
  start=$(now)
  "$avsweep" best pocket-grid --all-targets >/dev/null
  echo $((($(now) - start) / 1000))
done | sort -n >"$work/times"
echo "best --all-targets, $repeats runs: median $(sed -n "$(((repeats + 1) / 2))p" "$work/times") µs," \
  "fastest $(head -n 1 "$work/times") µs, slowest $(tail -n 1 "$work/times") µs"
