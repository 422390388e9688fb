#!/usr/bin/env bash
# Makes a Python environment in which the project runs, and proves that it does. See usage below.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: bash tools/setup_env.sh [--active] [--cpu-ops] [--help]

Makes the virtual environment .venv in the repository, installs the pinned stack (PyTorch, MMCV with
compiled operators, MMDetection, ...) and the project itself in editable mode, and proves the result
by running NMS and RoIAlign. What is in place stays, so a second run takes seconds, and a run that was
broken off is completed by the next one.

options:
  --active    use the environment that is active (venv or conda) instead of .venv. Its PyTorch, MMCV
              and other packages are kept where they are in the ranges of requirements.txt and
              requirements/*.txt; only what is missing or outside is installed.
  --cpu-ops   build MMCV's operators without CUDA although PyTorch is built for CUDA.
  --help      show this text.

environment variables:
  PYTHON            the Python to make .venv with: 3.10, 3.11 or 3.12 (default: the first of python3,
                    python3.12, python3.11, python3.10 that is one of these)
  TORCH_SPEC        the PyTorch to install, e.g. torch==2.13.0+cu130 (default: the pinned version)
  TORCH_INDEX_URL   the package index to take PyTorch from
  MMCV_SPEC         the MMCV to build, e.g. mmcv==2.1.0 (default: the pinned version)
  CUDA_HOME         the CUDA toolkit to build MMCV's operators with
  MAX_JOBS          how many files to compile at once (default: one per core, if memory allows)
  MMDET_EQL_CACHE   where the built MMCV wheel is kept (default: .cache in the repository)
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
active=no
options=()
for argument; do
  case $argument in
    --active)
      prefix=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
      [[ -n $prefix ]] || fail "--active was given, but no virtual or conda environment is active."
      active=yes
      options+=(--active)
      ;;
    --cpu-ops) options+=(--cpu-ops) ;;
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
command -v flock >/dev/null || fail "the command flock is needed; it comes with util-linux."
lock_file=$root/.cache/setup_env.lock
[[ $active == no ]] || lock_file=$prefix/setup_env.lock
exec {lock}>"$lock_file"
if ! flock --nonblock "$lock"; then
  echo "Waiting for another run that sets up $prefix"
  flock "$lock"
fi

if "$python" -c "" 2>/dev/null; then
  supported "$python" || fail "$needed $prefix holds $(describe "$python"): remove it."
elif [[ $active == yes ]]; then
  fail "$needed $python is $(describe "$python")."
fi
if [[ $active == no ]] && ! "$python" -m pip --version >/dev/null 2>&1; then
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
exec "$python" "$root/tools/dev/env.py" "${options[@]}"
