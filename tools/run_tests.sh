#!/usr/bin/env bash
# Sets up the environment, then checks style and runs the tests. See usage below.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: bash tools/run_tests.sh [--active] [PYTEST_ARGUMENT...]

Sets up the environment (tools/setup_env.sh), checks the style (ruff) and runs the tests (pytest), the
whole suite in a process per core. All checks run even if one of them fails.

  --active           use the environment that is active instead of .venv
  PYTEST_ARGUMENT    passed on, e.g. tests/losses -k sigmoid
USAGE
}

setup_options=()
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
case ${1:-} in
  -h | --help)
    usage
    exit
    ;;
  --active)
    setup_options+=(--active)
    python=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}/bin/python
    shift
    ;;
esac

bash "$root/tools/setup_env.sh" "${setup_options[@]}"

# The tests compute on small tensors, where more threads only wait for each other.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export MPLBACKEND=Agg
cd "$root"

# A file stays in one process, as its tests share what they train; tests/conftest.py starts long ones
# first. A few tests start faster in one.
((${#})) || set -- --numprocesses auto --dist loadfile --no-loadscope-reorder

failed=()
echo "==> ruff check"
"$python" -m ruff check . || failed+=("ruff check")
echo "==> ruff format --check"
"$python" -m ruff format --check . || failed+=("ruff format --check")
echo "==> pytest"
"$python" -m pytest "$@" || failed+=(pytest)

if ((${#failed[@]})); then
  (
    IFS=,
    echo "run_tests: failed: ${failed[*]}" >&2
  )
  exit 1
fi
