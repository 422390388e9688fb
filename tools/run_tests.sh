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
                     maintained packages, in .cache/originals; MMCV is built: minutes, once
  PYTEST_ARGUMENT    passed on, e.g. tests/losses -k sigmoid
USAGE
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
setup_options=()
case ${1:-} in
  -h | --help) usage && exit ;;
  --active) python=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}/bin/python setup_options=("$1") ;;
  --originals) python=$root/.cache/originals/bin/python setup_options=("$1") ;;
esac
shift ${#setup_options[@]}
bash "$root/tools/setup_env.sh" "${setup_options[@]}"

# The tests compute on small tensors, where more threads only wait for each other.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} MPLBACKEND=Agg
cd "$root"
failed=
check() {
  echo "==> $*"
  "$python" -m "$@" || failed+=" $1"
}
# A file stays in one process, as its tests share what they train; tests/conftest.py starts long ones
# first. A few tests start faster in one.
((${#})) || set -- --numprocesses auto --dist loadfile --no-loadscope-reorder
check ruff check .
check ruff format --check .
check pytest "$@"
[[ -z $failed ]] || { echo "run_tests: failed:$failed" >&2 && exit 1; }
