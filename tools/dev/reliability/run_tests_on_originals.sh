#!/usr/bin/env bash
# Runs the checks and tests on OpenMMLab's own MMCV, MMDetection and MMEngine. See usage below.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: bash tools/dev/reliability/run_tests_on_originals.sh [--folder DIR] [PYTEST_ARGUMENT...]

Makes a virtual environment with mmcv 2.1.0, mmdet 3.3.0 and mmengine 0.10.7 instead of the maintained
packages, the rest as it is pinned, and runs tools/run_tests.sh there. MMCV is built from its source:
minutes, once.

  --folder DIR       the environment (default: .cache/originals in the repository)
  PYTEST_ARGUMENT    passed on, e.g. tests/losses -k sigmoid

environment variables:
  PYTHON            the Python to make it with: 3.10, 3.11 or 3.12 (default: python3)
USAGE
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
folder=$root/.cache/originals
case ${1:-} in
  -h | --help)
    usage
    exit
    ;;
  --folder)
    folder=$(realpath -m -- "${2:?--folder needs a folder}")
    shift 2
    ;;
esac

python=$folder/bin/python
unset PYTHONPATH PYTHONHOME
# All that is installed, also by tools/setup_env.sh --active, is what is pinned.
export VIRTUAL_ENV=$folder PIP_CONSTRAINT=$root/requirements/constraints.txt MMCV_SPEC=mmcv==2.1.0

[[ -x $python ]] || "${PYTHON:-python3}" -m venv "$folder"
echo "==> OpenMMLab's own packages in $folder"
# Without its constraints: they have no hashes.
PIP_CONSTRAINT= "$python" -m pip install --quiet --no-deps --require-hashes \
  -r "$root/requirements/originals.txt"
bash "$root/tools/run_tests.sh" --active "$@"
