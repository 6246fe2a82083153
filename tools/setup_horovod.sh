#!/usr/bin/env bash
# Puts Horovod into the environment of $STACK. There are no wheels of it: it is built here from the source
# that requirements/horovod.txt locks, which takes some minutes, against the TensorFlow of
# that environment. The wheel is kept in the user's cache, so that it is built once.
# Exit codes: 0 it works, 3 there is no compiler here, 1 anything else.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/venv.sh

lock=requirements/horovod.txt
python=$PWD/$venv/bin/python
export VIRTUAL_ENV=$PWD/$venv
stamp=$venv/.horovod

# `make setup` removes what its own lock does not hold, this too.
if [[ $stamp -nt $venv/.installed && $stamp -nt $lock ]]; then
  exit
fi

uv=$(tools/uv.sh "$python")
installed_version() {
  "$python" -c "from importlib import metadata; print(metadata.version('$1'))"
}

# mpicc may be there without the headers of MPI.
if mpicc -E -include mpi.h -x c /dev/null >/dev/null 2>&1; then
  transports=gloo-mpi mpi=(HOROVOD_WITH_MPI=1)
else
  transports=gloo mpi=(HOROVOD_WITHOUT_MPI=1)
fi
tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
source_hash=$(sed -n 's/.*--hash=sha256:\(.\{12\}\).*/\1/p' "$lock")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/mnv2_hpu
key=horovod-$source_hash-$tag-tensorflow$(installed_version tensorflow-cpu)-$transports-$(uname -m)
kept=$cache/$key
log=build/horovod.log

install_and_check() { # of the wheel that is kept, if there is one
  compgen -G "$kept/*.whl" >/dev/null || return 1
  "$uv" pip install --quiet --no-deps --reinstall "$kept"/*.whl &&
    TF_CPP_MIN_LOG_LEVEL=3 "$python" -W ignore -c 'import horovod.tensorflow' 2>>"$log"
}

require() { # require <what> <command>
  command -v "$2" >/dev/null && return
  echo "error: Horovod is built from source, and this machine has no $1 (${2}). On" \
    "Debian and Ubuntu: apt install g++ cmake make. Everything but" \
    "runtime.distribution_strategy=horovod works without it." >&2
  exit 3
}

forward() { # <header that Horovod includes> <where TensorFlow has moved it>
  local include
  include=$("$python" -c 'from importlib import util
print(util.find_spec("tensorflow").submodule_search_locations[0] + "/include")')
  [[ ! -e $include/$1 && -e $include/$2 ]] || return 0
  mkdir -p "build/horovod-headers/$(dirname "$1")"
  echo "#include \"$2\"" >"build/horovod-headers/$1"
}

build() {
  local pip=(build/uv/bin/python -m pip) new="$kept.$$"
  "${pip[@]}" --version >/dev/null 2>&1 || pip=("$(tools/find_python.sh | cut -d" " -f2-)" -m pip)
  rm -rf "$new" build/horovod-headers
  forward tensorflow/compiler/xla/client/xla_builder.h xla/hlo/builder/xla_builder.h
  # Without pip's own cache, which would give a wheel built for another TensorFlow.
  # CMAKE_POLICY_VERSION_MINIMUM: cmake 4 refuses what gloo requires.
  env PATH="$PWD/$venv/bin:$PATH" "${mpi[@]}" HOROVOD_WITH_GLOO=1 \
    HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 \
    CPLUS_INCLUDE_PATH="$PWD/build/horovod-headers" \
    CMAKE_POLICY_VERSION_MINIMUM=3.5 MAKEFLAGS="-j$(nproc)" \
    "${pip[@]}" --python "$python" wheel --no-cache-dir --no-deps --no-build-isolation \
    --no-binary horovod --require-hashes --requirement "$lock" --wheel-dir "$new" \
    >>"$log" 2>&1 || { rm -rf "$new"; return 1; }
  rm -rf "$kept"
  mv "$new" "$kept"
}

mkdir -p build "$cache"
: >"$log"
if install_and_check; then
  touch "$stamp"
  echo "setup-horovod: installed from $kept"
  exit
fi
require "C++ compiler" "${CXX:-c++}"
require "build tool" cmake
require "build tool" make
echo "setup-horovod: building $(grep -o '^horovod==[0-9.]*' "$lock") with $transports" \
  "for $tag; some minutes, log in $log"
if ! build || ! install_and_check; then
  tail -n 30 "$log" >&2
  echo "error: Horovod could not be built, or does not load (the whole log: $log)." >&2
  exit 1
fi
touch "$stamp"
echo "setup-horovod: built and installed; the wheel is kept in $kept"
