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

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
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

requirements=$root/requirements
cache=${MMDET_EQL_CACHE:-$root/.cache}
mkdir -p "$cache" "$root/.cache"
log=$root/.cache/originals.log
python=$folder/bin/python
# All that is installed, also by tools/setup_env.sh --active, is what is pinned.
export VIRTUAL_ENV=$folder PIP_CONSTRAINT=$requirements/constraints.txt

unset PYTHONPATH PYTHONHOME
[[ -x $python ]] || "${PYTHON:-python3}" -m venv "$folder"
echo "==> OpenMMLab's own packages in $folder; the output of pip and the compiler goes to $log"
{
  "$python" -m pip install -r "$requirements/build.txt" -r "$requirements/torch.txt"
  # Without its constraints: they have no hashes.
  PIP_CONSTRAINT= "$python" -m pip install --no-deps --require-hashes \
    -r "$requirements/originals.txt"
} >"$log"
"$python" "$root/tools/dev/env/install_mmcv.py" --cache "$cache" --log "$log" mmcv==2.1.0

bash "$root/tools/run_tests.sh" --active "$@"
