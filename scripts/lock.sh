#!/usr/bin/env bash
# Resolve pyproject.toml anew into requirements/cpu.lock. Arguments go to uv, e.g. --upgrade-package httpx.
#
# The oldest Python that we support is the one locked for; no folder or host of this machine gets into the file.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source-path=SCRIPTDIR source=pip_settings.sh
source scripts/pip_settings.sh
adopt_pip_settings
mapfile -t torch < <(torch_source)

.venv/bin/uv pip compile pyproject.toml --extra cpu --extra dev --python-version 3.11 "${torch[@]}" \
  --no-emit-index-url --no-emit-find-links --no-annotate --no-header "$@" --output-file requirements/cpu.lock
