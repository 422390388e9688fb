#!/usr/bin/env bash
# Makes a Python environment in which the project runs, and proves that it does. See usage below.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: bash tools/setup_env.sh [--active] [--cpu-ops] [--originals] [--help]

Makes the virtual environment .venv in the repository, installs the pinned stack (PyTorch, MMCV with
compiled operators, MMDetection, ...) and the project itself in editable mode, and proves the result
by running NMS and RoIAlign. What is in place stays, so a second run takes seconds, and a run that was
broken off is completed by the next one. A PyTorch that you installed there before, such as one for
another CUDA, is kept. Built wheels of MMCV are kept in ~/.cache/mmdet_eql ($XDG_CACHE_HOME).

options:
  --active     use the environment that is active (venv or conda) instead of .venv. Its PyTorch, MMCV
               and other packages are kept where they are in the ranges of requirements.txt and
               requirements/*.txt; only what is missing or outside is installed.
  --cpu-ops    build MMCV's operators without CUDA although there is a GPU or a CUDA toolkit.
  --originals  make .cache/originals with OpenMMLab's own packages (see tools/run_tests.sh --help).
  --help       show this text.

environment variables:
  PYTHON     the Python to make .venv with: 3.10, 3.11 or 3.12 (default: the first of python3,
             python3.12, python3.11, python3.10 that is one of these)
  CUDA_HOME  the CUDA toolkit to build MMCV's operators with
  MAX_JOBS   how many files to compile at once (default: one per core, if memory allows)
USAGE
}

fail() {
  echo "setup_env: $*" >&2
  exit 1
}

supported() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

describe() {
  "$1" -c 'import sys; print("Python {}.{}".format(*sys.version_info[:2]))' 2>/dev/null ||
    echo "not a Python that runs"
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
prefix=$root/.venv
for argument; do
  case $argument in
    --active)
      prefix=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
      [[ -n $prefix ]] || fail "--active was given, but no virtual or conda environment is active."
      ;;
    --originals) prefix=$root/.cache/originals ;;
    --cpu-ops) ;;
    -h | --help) usage && exit ;;
    *) fail "'$argument' is not an option; see bash tools/setup_env.sh --help" ;;
  esac
done
needed="Python 3.10, 3.11 or 3.12 is needed, but"
python=$prefix/bin/python
# PyTorch and pip answer questions of their own environment, not of whatever is set around it.
unset PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

# Two runs at once would install over each other. What is started below holds the lock, too, so what a
# killed run leaves running is waited for.
mkdir -p "$root/.cache"
exec {lock}>"$root/.cache/setup_env.lock"
flock --nonblock "$lock" || { echo "Waiting for another run that sets up $root" && flock "$lock"; }

if [[ " $* " == *" --active "* ]] || "$python" -c "" 2>/dev/null; then
  supported "$python" || fail "$needed $python is $(describe "$python"): remove or replace it."
fi
if ! "$python" -m pip --version >/dev/null 2>&1; then
  [[ " $* " != *" --active "* ]] || fail "$python has no pip: install it, as by $python -m ensurepip"
  base=${PYTHON:-}
  for candidate in python3 python3.12 python3.11 python3.10; do
    [[ -z $base ]] && supported "$candidate" && base=$candidate
  done
  base=${base:-python3}
  supported "$base" || fail "$needed ${PYTHON:+PYTHON=}$base is $(describe "$base"):" \
    "install one of them and name it, as in PYTHON=python3.11 bash tools/setup_env.sh"
  echo "==> Making $prefix with $(describe "$base")"
  "$base" -m venv --clear "$prefix"
fi
PATH=$prefix/bin:$PATH exec "$python" "$root/tools/dev/env.py" "$@"
