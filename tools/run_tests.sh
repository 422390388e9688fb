#!/usr/bin/env bash
# Sets up the environment, then checks style and runs the tests. See usage below.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: bash tools/run_tests.sh [--active | --originals] [PYTEST_ARGUMENT...]

Sets up the environment (tools/setup_env.sh), checks the style (ruff) and runs the tests (pytest), the
whole suite in a process per core. All checks run even if one of them fails.

  --active           use the environment that is active instead of .venv
  --originals        use OpenMMLab's own mmcv 2.1.0, mmdet 3.3.0 and mmengine 0.10.7 instead of the
                     maintained packages, in .cache/originals, made with PYTHON (default: python3).
                     MMCV is built from its source: minutes, once
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
  --originals)
    setup_options+=(--active)
    # All that tools/setup_env.sh installs there is what is pinned.
    export VIRTUAL_ENV=$root/.cache/originals MMCV_SPEC=mmcv==2.1.0
    export PIP_CONSTRAINT=$root/requirements/constraints.txt
    unset PYTHONPATH PYTHONHOME
    [[ -x $VIRTUAL_ENV/bin/python ]] || "${PYTHON:-python3}" -m venv "$VIRTUAL_ENV"
    python=$VIRTUAL_ENV/bin/python
    echo "==> OpenMMLab's own packages in $VIRTUAL_ENV"
    # Without constraints, which have no hashes.
    PIP_CONSTRAINT= "$python" -m pip install --quiet --no-deps --require-hashes \
      -r "$root/requirements/originals.txt"
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
