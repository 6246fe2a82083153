#!/usr/bin/env bash
# Builds .venv-peers from requirements/peers.txt: what benchmarks compare with. Nothing but
# `make benchmark` needs it. The lock holds PyTorch's wheel of Python 3.11 on x86_64.
set -euo pipefail
cd "$(dirname "$0")/.."

environment=.venv-peers
found=$(tools/find_python.sh)
python=${found#* }
uv=$(tools/uv.sh "$python")
source tools/registry.sh

export VIRTUAL_ENV=$PWD/$environment
if ! "$uv" venv --quiet --clear --python 3.11 "$environment"; then
  echo "error: the peers need Python 3.11. Install it, or have uv do so:" \
    "$uv python install 3.11" >&2
  exit 1
fi
if ! "$uv" pip sync --quiet --require-hashes --compile-bytecode \
  --find-links "$(pytorch_links)" requirements/peers.txt; then
  echo "error: the locked packages could not be installed. Are the package registry and" \
    "$(pytorch_links) reachable from here? Are 2 GB free?" >&2
  exit 1
fi
echo "setup-peers: $(du -sh "$environment" | cut -f1) in $environment; \`make benchmark\`" \
  "measures them"
touch "$environment/.installed"
