#!/usr/bin/env bash
# Checks the alert rules with promtool (Debian: apt-get install prometheus), and tries them on made-up histories.
set -euo pipefail
cd "$(dirname "$0")"
promtool=${PROMTOOL:-promtool}
command -v "$promtool" >/dev/null ||
  { echo "error: promtool is missing: install Prometheus, or set PROMTOOL to its path" >&2; exit 1; }
"$promtool" check rules alerts.yml
"$promtool" test rules alerts_test.yml
