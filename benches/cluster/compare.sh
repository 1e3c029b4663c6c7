#!/usr/bin/env bash
# Our jobs per second beside Optuna's trials per second, in turns on one private PostgreSQL server.
#
# usage: benches/cluster/compare.sh [ARGUMENTS of avsweep-bench-cluster]
#   PROFILE   cargo's profile (default release)
#   PYTHON    a Python that has optuna and psycopg2 (default: a temporary one is made, with Optuna 5 from PyPI)
set -euo pipefail
cd "$(dirname "$0")/../.."

if [[ -z ${PYTHON:-} ]]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install --quiet 'optuna>=5,<6' psycopg2-binary
  PYTHON=$work/venv/bin/python
fi
cargo run --locked --profile "${PROFILE:-release}" -p avsweep-bench-cluster -- --optuna "$PYTHON" "$@"
