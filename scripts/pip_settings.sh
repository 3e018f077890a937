# Sourced by setup.sh and lock.sh from the root of the checkout: what uv has to be told, since it does not
# read pip's configuration. Needs .venv with pip in it.
# shellcheck shell=bash

pip_setting() { # every value that pip's files and environment give to the option "$1", one a line
  .venv/bin/python -m pip --disable-pip-version-check config list 2>/dev/null | .venv/bin/python -c '
import ast, sys
wanted, values = sys.argv[1], {}
for line in sys.stdin:
    key, separator, value = line.partition("=")
    if separator and key.rpartition(".")[2] == wanted:
        values.update(dict.fromkeys(ast.literal_eval(value.strip()).split()))
print("\n".join(values))
' "$1"
}

# uv does not read pip's configuration: hand over the package index and the certificates.
adopt_pip_settings() {
  local index certificates
  if [[ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]]; then
    index="$(pip_setting index-url | tail -n 1)"
    [[ -n "$index" ]] && export UV_DEFAULT_INDEX="$index"
  fi
  if [[ -z "${SSL_CERT_FILE:-}" ]]; then
    certificates="$(pip_setting cert | tail -n 1)"
    [[ -n "$certificates" ]] && export SSL_CERT_FILE="$certificates"
  fi
  return 0
}

# torch's CPU build (2.13.0+cpu, say) is not on PyPI. It lies in a folder that pip was told of, or in
# PyTorch's own CPU index, which uv knows by name.
torch_source() {
  local pinned folder
  pinned="$(sed -n 's/^torch==//p' requirements/cpu.lock)"
  while read -r folder; do
    if compgen -G "${folder#file://}/torch-$pinned-*.whl" >/dev/null; then
      printf -- '--find-links\n%s\n' "$folder"
      return
    fi
  done < <(pip_setting find-links)
  printf -- '--torch-backend\ncpu\n'
}
