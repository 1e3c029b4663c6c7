#!/usr/bin/env bash
# Checks these manifests against the schemas of Kubernetes itself, strictly: an unknown field is an error.
#
#   deploy/kubernetes/check.sh
#
# The schemas come with kubernetes-validate (PyPI), installed once into a virtual environment in AVSWEEP_TOOLS
# (default: a folder in the user's cache). With kubectl at hand, what its kustomize makes of every folder is checked as
# well; without it, only that every folder names files that are there. No cluster is asked.
set -euo pipefail
cd "$(dirname "$0")"

validator_version=1.37.0
# The oldest and the newest that the manifests must fit.
kubernetes_versions=(1.29 1.33 1.37)

command -v python3 >/dev/null || { echo "error: python3 is missing" >&2; exit 1; }
tools=${AVSWEEP_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/avsweep-tools}/kubernetes-validate-$validator_version
if [[ ! -e $tools/ready ]]; then
  echo "installing kubernetes-validate $validator_version"
  python3 -m venv --clear "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check "kubernetes-validate==$validator_version"
  touch "$tools/ready"
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# valid VERSION FILE: the file's documents are all as Kubernetes wants them.
valid() { "$tools/bin/kubernetes-validate" --strict --quiet --no-warn -k "$1" "$2"; }

plain=(base/coordinator.yaml base/worker.yaml base/judge.yaml base/network-policy.yaml job/worker-job.yaml
  secrets.example.yaml)
for file in base/*.yaml cpu/*.yaml job/*.yaml ./*.yaml; do
  file=${file#./}
  [[ $(basename "$file") == kustomization.yaml || " ${plain[*]} " == *" $file "* ]] ||
    { echo "error: $file is not among the files that are checked" >&2; exit 1; }
done

checked=("${plain[@]}")
kustomizations=(. cpu job)
if command -v kubectl >/dev/null; then
  for folder in "${kustomizations[@]}"; do
    rendered=$work/rendered-${folder/./base}.yaml
    kubectl kustomize "$folder" >"$rendered"
    checked+=("$rendered")
  done
else
  echo "no kubectl: what the kustomizations make was not checked"
  "$tools/bin/python" - "${kustomizations[@]}" base <<'PYTHON'
import pathlib, sys, yaml
for folder in map(pathlib.Path, sys.argv[1:]):
    for resource in yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]:
        if not (folder / resource).exists():
            sys.exit(f"error: {folder}/kustomization.yaml names {resource}, which is not there")
PYTHON
fi

for version in "${kubernetes_versions[@]}"; do
  for file in "${checked[@]}"; do
    valid "$version" "$file" || { echo "error: $file does not fit Kubernetes $version" >&2; exit 1; }
  done
  echo "Kubernetes $version: ${#checked[@]} files fit"
done

# A check that cannot fail checks nothing. Each of these is wrong in one place, at three depths.
spoil() {
  local what=$1 from=$2 to=$3
  sed "0,/$from/s//$to/" base/coordinator.yaml >"$work/spoiled.yaml"
  cmp -s base/coordinator.yaml "$work/spoiled.yaml" && { echo "error: nothing was spoiled by: $what" >&2; exit 1; }
  if valid "${kubernetes_versions[0]}" "$work/spoiled.yaml" >"$work/refusal" 2>&1; then
    echo "error: the check lets through: $what" >&2
    exit 1
  fi
  echo "refused, as it must be: $what"
}
spoil "an unknown field of a Deployment" '^  replicas: 2' '  replica: 2'
spoil "an unknown field of a container" 'readinessProbe:' 'readynessProbe:'
spoil "a word where a number belongs" 'terminationGracePeriodSeconds: 45' 'terminationGracePeriodSeconds: soon'

# What no schema says: a pod must have longer to end than its process drains.
"$tools/bin/python" - "${checked[@]}" <<'PYTHON'
import sys, yaml
found = 0
for path in sys.argv[1:]:
    for document in yaml.safe_load_all(open(path)):
        if document["kind"] not in ("Deployment", "Job"):
            continue
        pod = document["spec"]["template"]["spec"]
        for container in pod["containers"]:
            environment = {entry["name"]: entry.get("value") for entry in container["env"]}
            drain = environment.get("AVSWEEP_WORKER_DRAIN") or environment.get("AVSWEEP_DRAIN")
            if drain is None or int(drain) + 10 > pod["terminationGracePeriodSeconds"]:
                sys.exit(f"error: {path}: {container['name']} drains {drain} s, "
                         f"its pod ends after {pod['terminationGracePeriodSeconds']} s")
            found += 1
print(f"{found} pods have longer to end than their processes drain")
PYTHON
