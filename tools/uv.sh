#!/usr/bin/env bash
# Prints the path of the pinned uv, installing it with pip below build/ at first.
# usage: tools/uv.sh <python>
set -euo pipefail
cd "$(dirname "$0")/.."

python=$1
lock=requirements/uv.txt
home=build/uv
uv=$home/bin/uv

if [[ -x $uv && ! $lock -nt $uv ]]; then
  echo "$PWD/$uv"
  exit
fi

# pip comes from a fresh venv, or, where the system's Python has no ensurepip, from it.
rm -rf "$home"
if "$python" -m venv "$home" >/dev/null 2>&1; then
  install=("$home/bin/python" -m pip install)
elif "$python" -m pip --version >/dev/null 2>&1; then
  rm -rf "$home"
  install=("$python" -m pip install --target "$home")
else
  echo "error: $python has neither ensurepip nor pip. Install pip for it (on Debian and" \
    "Ubuntu: apt install python3-venv python3-pip)." >&2
  exit 1
fi

if ! log=$("${install[@]}" --quiet --require-hashes -r "$lock" 2>&1); then
  echo "$log" >&2
  echo "error: pip could not install $lock: is the package registry reachable from" \
    "here? (pip's settings: \`$python -m pip config list\`)" >&2
  exit 1
fi
touch "$uv"
echo "$PWD/$uv"
