#!/usr/bin/env bash
# Prints "<stack> <path of a Python>": the first row of requirements/stacks.txt for which
# a Python is found. STACK chooses among the rows, PYTHON names the interpreter to take.
# Candidates are tried by running them: a pyenv shim may exist and yet fail.
set -euo pipefail
stacks=$(dirname "$0")/../requirements/stacks.txt

version_of() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

path_of() {
  "$1" -c 'import sys; print(sys.executable)'
}

candidates() {
  local version=$1 pyenv_root=${PYENV_ROOT:-${HOME:-}/.pyenv}
  if [[ -n "${PYTHON:-}" ]]; then
    echo "$PYTHON"
    return
  fi
  type -ap "python$version" python3 python || true
  compgen -G "$pyenv_root/versions/$version*/bin/python$version" || true
  compgen -G "${UV_PYTHON_INSTALL_DIR:-${HOME:-}/.local/share/uv/python}/*-$version*/bin/python$version" || true
  compgen -G "/opt/python$version*/bin/python$version" || true
}

rows() { # of the stack that is requested
  awk -v stack="${STACK:-}" '!/^#/ && (stack == "" || stack "" == $1 "")' "$stacks"
}

if [[ -z "$(rows)" ]]; then
  echo "error: STACK=$STACK is unknown; allowed are" \
    "$(STACK='' rows | cut -d' ' -f1 | sort -u | paste -sd' ')." >&2
  exit 1
fi

while read -r stack version; do
  while IFS= read -r candidate; do
    if [[ "$(version_of "$candidate")" == "$version" ]]; then
      echo "$stack $(path_of "$candidate")"
      exit
    fi
  done < <(candidates "$version")
done < <(rows)

allowed=$(rows | cut -d' ' -f2 | sort -uV | paste -sd' ' | sed 's/ /, /g')
if [[ -n "${PYTHON:-}" ]]; then
  found=$(version_of "$PYTHON")
  echo "error: PYTHON=$PYTHON must be one of Python $allowed${STACK:+ for STACK=$STACK};" \
    "its version is ${found:-unknown (it does not run)}." >&2
else
  echo "error: none of Python $allowed was found${STACK:+ for STACK=$STACK}. Install one" \
    "(3.10 if a Gaudi is to be used), or name one:" \
    "make setup PYTHON=/path/to/python" >&2
fi
exit 1
