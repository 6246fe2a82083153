#!/usr/bin/env bash
# Prints the path of a Python that fits: 3.10 (Habana's bridge has wheels for it) or 3.11.
# Candidates are tried by running them: a pyenv shim may exist and yet fail.
set -euo pipefail

version_of() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

path_of() {
  "$1" -c 'import sys; print(sys.executable)'
}

candidates() {
  local version=$1 pyenv_root=${PYENV_ROOT:-$HOME/.pyenv}
  type -ap "python$version" python3 python || true
  compgen -G "$pyenv_root/versions/$version*/bin/python$version" || true
  compgen -G "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}/*-$version*/bin/python$version" || true
  compgen -G "/opt/python$version*/bin/python$version" || true
}

if [[ -n "${PYTHON:-}" ]]; then
  found=$(version_of "$PYTHON")
  if [[ "$found" != 3.10 && "$found" != 3.11 ]]; then
    echo "error: PYTHON=$PYTHON must be a Python 3.10 or 3.11 that runs;" \
      "its version is ${found:-unknown (it does not run)}." >&2
    exit 1
  fi
  path_of "$PYTHON"
  exit
fi

for version in 3.10 3.11; do
  while IFS= read -r candidate; do
    if [[ "$(version_of "$candidate")" == "$version" ]]; then
      path_of "$candidate"
      exit
    fi
  done < <(candidates "$version")
done

echo "error: no Python 3.10 or 3.11 was found. Install one (3.10 if a Gaudi is to" \
  "be used), or name one: make setup PYTHON=/path/to/python3.10" >&2
exit 1
