#!/usr/bin/env bash
# Makes what docker-compose.yml needs: the database's password and the tokens, in deploy/compose/secrets, and a .env.
#
#   deploy/compose/init.sh [FOLDER]      FOLDER: where models and vectors lie (default: examples)
#
# What is there already stays.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/../.." && pwd)
models=$(realpath "${1:-$repository/examples}")
[[ -d $models ]] || { echo "error: $models is not a folder" >&2; exit 1; }
command -v openssl >/dev/null || { echo "error: openssl is missing" >&2; exit 1; }

# Owner and group alone: containers run with your group (AVSWEEP_GID).
umask 027
mkdir -p "$here/secrets"
for secret in postgres_password user.token worker.token judge.token metrics.token; do
  if [[ ! -e $here/secrets/$secret ]]; then
    openssl rand -hex 32 >"$here/secrets/$secret"
    echo "made $here/secrets/$secret"
  fi
done
if [[ ! -e $repository/.env ]]; then
  sed -e "s|^AVSWEEP_GID=.*|AVSWEEP_GID=$(id -g)|" -e "s|^AVSWEEP_MODELS=.*|AVSWEEP_MODELS=$models|" \
    "$here/.env.example" >"$repository/.env"
  echo "made $repository/.env"
fi
