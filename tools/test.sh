#!/usr/bin/env bash
# Runs every check, the cheap ones first; stops at the first that fails, and says how long
# each took. usage: tools/test.sh [quick]
# TEST_WORKERS is the number of processes that run tests side by side; 2 if not set.
# STACK=2.20 runs the tests alone on that stack: what reads the source (format, lint,
# words, types, imports) and what builds the wheel is the same on both.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/venv.sh

results=build/test-results${venv#.venv}
rm -rf "$results"
mkdir -p "$results"
export PATH=$PWD/$venv/bin:$PATH VIRTUAL_ENV=$PWD/$venv
export TF_CPP_MIN_LOG_LEVEL=${TF_CPP_MIN_LOG_LEVEL:-2}
export PYTHONDONTWRITEBYTECODE= # else each of some hundred processes compiles again
other=$([[ $venv == .venv ]] && echo .venv-2.20 || echo .venv)
if [[ -x $other/bin/python ]] && ! cmp -s "$venv/.installed" "$other/.installed"; then
  export OTHER_STACK_PYTHON=$PWD/$other/bin/python # for tests/end_to_end/test_stacks.py
fi
exec </dev/null

step() { # step <name> <command...>
  local name=$1 begin=$SECONDS status=0
  shift
  echo
  echo "== $name"
  "$@" || status=$?
  printf '%s\t%d\t%d\n' "$name" "$((SECONDS - begin))" "$status" >>"$results/steps.tsv"
  if ((status)); then
    python tools/test_summary.py "$results"
    echo "FAILED: $name"
    exit 1
  fi
}

tests() { # tests <name> <pytest arguments...>
  local name=$1
  shift
  step "$name" pytest --quiet --durations=10 \
    --junit-xml="$results/${name// /-}.xml" "$@"
}

horovod() { # without a compiler its tests are skipped, which the end says again
  local status=0
  tools/setup_horovod.sh || status=$?
  ((status == 0 || status == 3))
}

native() { # likewise
  local status=0
  python -W ignore -m mnv2_hpu.native.build || status=$?
  ((status == 0 || status == 3))
}

# A file's tests share what they train; tests/conftest.py orders the files.
# What --max-test-seconds counts, and how a test may take longer: helpers_test_limit.py.
side_by_side=(-n "${TEST_WORKERS:-2}" --dist loadfile --no-loadscope-reorder
  --max-test-seconds=60)

# Six processes that are frozen or wait for those: a third pytest runs them meanwhile.
waiting=tests/end_to_end/test_frozen_rank.py

whole_tests() {
  local status=0 of_waiting
  pytest --quiet --junit-xml="$results/waiting.xml" "$waiting" \
    >"$results/waiting.log" 2>&1 &
  of_waiting=$!
  trap 'jobs -p | xargs -r kill' EXIT
  pytest --quiet --durations=10 --junit-xml="$results/tests.xml" \
    "${side_by_side[@]}" --ignore="$waiting" || status=$?
  wait "$of_waiting" || {
    status=$?
    cat "$results/waiting.log"
  }
  return "$status"
}

if [[ $venv == .venv ]]; then
  step "format" ruff format --check
  step "lint" ruff check
  step "words" python tools/check_words.py
  step "types" mypy
  step "imports" lint-imports
fi
if [[ "${1:-}" == quick ]]; then
  tests "quick tests" "${side_by_side[@]}" -m "not slow and not quickstart"
else
  # On 2.20 Horovod's tests run where `make setup-horovod STACK=2.20` was run before.
  [[ $venv != .venv ]] || step "horovod" horovod
  # For tests/data_preparation/test_beam.py, on both stacks.
  [[ $venv != .venv ]] || step "beam" tools/setup_beam.sh
  step "native" native
  [[ $venv != .venv ]] || step "wheel" tools/test_wheel.sh "$PWD/$results/wheel.xml"
  step "tests" whole_tests
  [[ -e $venv/.horovod ]] ||
    echo "NOT TESTED: Horovod, which needs a C++ compiler here (see above)."
fi
python tools/test_summary.py "$results"
