#!/usr/bin/env bash
# Run the slow tests in two halves at once: those of vLLM, which take all the processor time that they are
# given, and those that mostly wait (outages, leases, steady load), which come first whenever they want some.
#
#   scripts/test_slow.sh [pytest arguments]
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly PYTEST=(.venv/bin/python -m pytest -q)
log="$(mktemp)"
readonly log
trap 'rm -f "$log"' EXIT

nice -n 10 "${PYTEST[@]}" -m "vllm and not story" "$@" >"$log" 2>&1 &
half=$!
trap 'kill "$half" 2>/dev/null; wait "$half"; rm -f "$log"; exit 130' INT TERM
status=0
"${PYTEST[@]}" -m "(real or simulation) and not vllm and not story" "$@" || status=$?
echo "the tests of vLLM:"
wait "$half" || status=$?
cat "$log"
exit "$status"
