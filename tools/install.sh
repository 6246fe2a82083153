# Sourced by what sets environments up, which has set `python` (the interpreter), `uv` and
# `venv` (the folder to make).

source tools/registry.sh
# TensorFlow is imported in 3 seconds, not 8, where Python may not write bytecode itself.
export UV_COMPILE_BYTECODE=1

version_of() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# An environment that someone activated must not be the one that is changed.
export VIRTUAL_ENV=$PWD/$venv

install_lock() { # install_lock <lock>: makes the environment hold it and this project
  if [[ $(version_of "$venv/bin/python" || true) != "$(version_of "$python")" ]]; then
    "$uv" venv --quiet --clear --python "$python" "$venv"
  fi
  if ! "$uv" pip sync --quiet "$1"; then
    echo "error: the locked packages could not be installed. Is the package registry" \
      "reachable from here? Are there 4 GB free? The same command continues where it" \
      "stopped." >&2
    exit 1
  fi
  "$uv" pip install --quiet --no-deps --no-build-isolation --editable .
}
