#!/usr/bin/env bash
# Builds .venv-beam from requirements/beam.txt, one lock for every Python of stacks.txt: an
# environment to prepare data with Apache Beam. The locks of the stacks hold what is newer
# than Beam allows, so it cannot be put into .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv-beam
lock=requirements/beam.txt
stamp=$venv/.installed
if [[ $stamp -nt $lock && $stamp -nt setup.py && -z ${PYTHON:-} ]]; then
  exit
fi

found=$(tools/find_python.sh)
python=${found#* }
uv=$(tools/uv.sh "$python")
source tools/install.sh

echo "setup-beam: Python $(version_of "$python"), $lock -> $venv"
install_lock "$lock"
echo "setup-beam: \`source $venv/bin/activate\` puts mnv2-prepare-data with --runner on the path"
touch "$stamp"
