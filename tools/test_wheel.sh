#!/usr/bin/env bash
# Builds the sdist, the wheel from it, installs that into an environment of its own (the
# locked packages and nothing from the checkout). From outside the checkout it then tries
# what packaging can break: imports, metadata, entry points, the shipped gin files, and
# one network with slim's weights. What the code computes, the checkout's tests say.
# usage: tools/test_wheel.sh <junit.xml>
set -euo pipefail
cd "$(dirname "$0")/.."

report=$1
stack=$(<.venv/.installed)
version=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
uv=$(tools/uv.sh .venv/bin/python)
outside=$(mktemp -d)
trap 'rm -rf "$outside"' EXIT

rm -rf build/wheel
.venv/bin/python -m build --no-isolation --outdir build/wheel . >"$outside/log" 2>&1 ||
  { cat "$outside/log"; exit 1; }
rm -rf mnv2_hpu.egg-info # would hide the metadata of .venv
wheel=$(echo "$PWD"/build/wheel/mnv2_hpu-*.whl)
echo "wheel: $(basename "$wheel"), $(du -k "$wheel" | cut -f1) kB"

resolves() { # resolves <stack> <Python> <requirement...>: what pip would choose fits
  printf '%s\n' "mnv2-hpu @ file://$wheel" "${@:3}" |
    "$uv" pip compile --quiet --no-header --no-annotate --python-version "$2" \
      --python-platform x86_64-manylinux_2_28 - >"$outside/resolved"
  .venv/bin/python tools/check_bounds.py "$1" "$outside/resolved"
}
resolves 2.15 3.10
resolves 2.15 3.10 "mnv2-hpu[gaudi] @ file://$wheel"
resolves 2.15 3.10 "mnv2-hpu[beam] @ file://$wheel"
resolves 2.20 3.12
resolves 2.20 3.12 "mnv2-hpu[beam] @ file://$wheel"
resolves 2.20 3.12 'tensorflow[and-cuda]~=2.20.0'
resolves 2.20 3.13

"$uv" venv --quiet --python .venv/bin/python "$outside/venv"
export VIRTUAL_ENV=$outside/venv
"$uv" pip sync --quiet "requirements/tf$stack-python$version.txt"
"$uv" pip install --quiet --no-deps "$wheel"

cp -r tests pyproject.toml "$outside"
cd "$outside"
export MNV2_HPU_INSTALLED=1 PATH=$outside/venv/bin:$PATH
mnv2-doctor
pytest --quiet -m "not slow and not checkout" -p no:cacheprovider \
  --junit-xml="$report" tests/test_package.py tests/gin_files tests/configs \
  tests/checkpoints/test_slim.py::test_golden_logits
