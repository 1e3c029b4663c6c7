#!/usr/bin/env bash
# Copies a workspace's manifests and lock file, with an empty source file wherever cargo looks for one.
#
#   deploy/docker/skeleton.sh WORKSPACE SKELETON
#
# Building the skeleton compiles every dependency and nothing of ours, so that the Dockerfile has a layer that stays
# until a manifest changes.
set -euo pipefail
from=$1 to=$2

mkdir -p "$to"
cp "$from"/Cargo.lock "$to"
for extra in rust-toolchain.toml .cargo/config.toml; do
  if [[ -e $from/$extra ]]; then install -D "$from/$extra" "$to/$extra"; fi
done

cd "$from"
find . \( -name target -o -name .git \) -prune -o -name Cargo.toml -print | while read -r manifest; do
  crate=$(dirname "$manifest")
  install -D -m 644 "$manifest" "$to/$manifest"
  grep -q '^\[package\]' "$manifest" || continue
  mkdir -p "$to/$crate/src"
  # A crate that has no library here must not get one: its tests would no longer find their names.
  if [[ -e $crate/src/lib.rs ]]; then : >"$to/$crate/src/lib.rs"; fi
  if [[ -e $crate/src/main.rs ]]; then echo 'fn main() {}' >"$to/$crate/src/main.rs"; fi
  # Without a build script its dependencies would not be built either.
  if [[ -e $crate/build.rs ]]; then echo 'fn main() {}' >"$to/$crate/build.rs"; fi
done
# Targets that a manifest names must be there, or cargo refuses it: [[bin]], [[bench]], [[test]], [[example]] with a path,
# and benches without one.
find . \( -name target -o -name .git \) -prune -o -name Cargo.toml -print | while read -r manifest; do
  crate=$(dirname "$manifest")
  {
    grep -oE '^path = "[^"]+\.rs"' "$manifest" | cut -d'"' -f2 || true
    sed -n '/^\[\[bench\]\]/,/^$/ s/^name = "\(.*\)"$/benches\/\1.rs/p' "$manifest"
  } | while read -r source; do
    if [[ -e $to/$crate/$source ]]; then continue; fi
    mkdir -p "$to/$crate/$(dirname "$source")"
    echo 'fn main() {}' >"$to/$crate/$source"
  done
done
