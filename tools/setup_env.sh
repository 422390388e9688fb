#!/usr/bin/env bash
# Makes a Python environment in which the project runs, and proves that it does. See usage below.
set -Eeuo pipefail

usage() {
  cat <<'USAGE'
usage: bash tools/setup_env.sh [--active] [--cpu-ops] [--help]

Makes the virtual environment .venv in the repository, installs the pinned stack (PyTorch, MMCV with
compiled operators, MMDetection, ...) and the project itself in editable mode, and proves the result
by running NMS and RoIAlign. What is already in place is left as it is, so a second run takes
seconds, and a run that was broken off is mended by the next one.

options:
  --active    use the environment that is active (venv or conda) instead of .venv. Its PyTorch and
              other packages are kept where they are in the ranges of requirements.txt and
              requirements/*.txt; only what is missing or outside is installed.
  --cpu-ops   build MMCV's operators without CUDA although PyTorch is built for CUDA.
  --help      show this text.

environment variables:
  PYTHON            the Python to make .venv with: 3.10, 3.11 or 3.12 (default: the first of python3,
                    python3.12, python3.11, python3.10 that is one of these)
  TORCH_SPEC        the PyTorch to install, e.g. torch==2.13.0+cu130 (default: the pinned version)
  TORCH_INDEX_URL   the package index to take PyTorch from
  CUDA_HOME         the CUDA toolkit to build MMCV's operators with
  MAX_JOBS          how many files to compile at once (default: one per core, if memory allows)
  MMDET_EQL_CACHE   where the built MMCV wheel is kept (default: .cache in the repository)
USAGE
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
requirements=$root/requirements
helpers=$root/tools/dev/env

# Reporting -----------------------------------------------------------------------------------------

log=
current_step="starting"
started=$SECONDS

fail() {
  trap - ERR
  echo "setup_env: $*" >&2
  if [[ -n $log ]]; then
    # A CI machine may be gone when somebody wants to read the log.
    if [[ ${CI:-} == true ]]; then tail -n 40 "$log" >&2; fi
    echo "The full output is in $log" >&2
  fi
  exit 1
}
trap 'fail "\"$current_step\" failed."' ERR

# step TITLE COMMAND...: runs a command with its output in the log and tells how long it took.
step() {
  current_step=$1
  local begin=$SECONDS
  echo "==> $1"
  shift
  echo "==> $current_step" >>"$log"
  "$@"
  echo "    $((SECONDS - begin)) s"
}

logged() {
  echo "\$ $*" >>"$log"
  "$@" >>"$log" 2>&1 </dev/null
}

# Choosing the environment --------------------------------------------------------------------------

supported_python() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

describe_python() {
  "$1" -c 'import sys; print("Python {}.{}".format(*sys.version_info[:2]))' 2>/dev/null ||
    echo "not a Python that runs"
}

choose_base_python() {
  local candidate
  if [[ -n ${PYTHON:-} ]]; then
    supported_python "$PYTHON" ||
      fail "Python 3.10, 3.11 or 3.12 is needed, but PYTHON=$PYTHON is $(describe_python "$PYTHON")."
    base_python=$PYTHON
    return
  fi
  for candidate in python3 python3.12 python3.11 python3.10; do
    if command -v "$candidate" >/dev/null && supported_python "$candidate"; then
      base_python=$candidate
      return
    fi
  done
  fail "Python 3.10, 3.11 or 3.12 is needed, but python3 is $(describe_python python3):" \
    "install one of them and name it, as in PYTHON=python3.11 bash tools/setup_env.sh"
}

choose_environment() {
  if [[ $active == yes ]]; then
    prefix=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
    [[ -n $prefix ]] || fail "--active was given, but no virtual or conda environment is active."
    python=$prefix/bin/python
    supported_python "$python" ||
      fail "Python 3.10, 3.11 or 3.12 is needed, but $python is $(describe_python "$python")."
    return
  fi
  prefix=$root/.venv
  python=$prefix/bin/python
  if "$python" -c "" 2>/dev/null; then
    local is asked
    is=$(describe_python "$python")
    supported_python "$python" ||
      fail "Python 3.10, 3.11 or 3.12 is needed, but $prefix holds $is: remove $prefix."
    asked=$(describe_python "${PYTHON:-$python}")
    [[ $asked == "$is" ]] ||
      fail "$prefix holds $is, but PYTHON=$PYTHON is $asked: remove $prefix to change it."
  else
    choose_base_python
  fi
}

make_venv() {
  if [[ -x $python ]] && "$python" -m pip --version >>"$log" 2>&1; then
    return
  fi
  if [[ -z $base_python ]]; then
    # Python is there but not pip: making the .venv was broken off, and is taken up again.
    base_python=$("$python" -c 'import sys; print(sys._base_executable)')
    step "Completing $prefix" logged "$base_python" -m venv "$prefix"
  else
    step "Making $prefix with $(describe_python "$base_python")" \
      logged "$base_python" -m venv --clear "$prefix"
  fi
}

# Installing ----------------------------------------------------------------------------------------

pip() {
  logged "$python" -m pip "$@"
}

# missing FILE...: sets wanted to what the environment lacks of some requirement files.
missing() {
  local output
  output=$("$python" "$helpers/missing_requirements.py" "${pins[@]}" "$@" 2>"$scratch/error") ||
    fail "$(cat "$scratch/error")"
  wanted=()
  if [[ -n $output ]]; then mapfile -t wanted <<<"$output"; fi
}

# install_missing TITLE [PIP_OPTION...] -- FILE...
install_missing() {
  local title=$1 options=()
  shift
  while [[ $1 != -- ]]; do
    options+=("$1")
    shift
  done
  shift
  missing "$@"
  if ((${#wanted[@]})); then
    step "Installing $title: ${#wanted[@]} to install" pip install "${options[@]}" "${wanted[@]}"
  fi
}

# The PyTorch that is there stays there, unless TORCH_SPEC names another: replacing a CUDA build by
# the pinned version could cost gigabytes and the GPU.
install_torch() {
  local installed spec options=()
  installed=$("$python" -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null) ||
    installed=
  if [[ -n ${TORCH_SPEC:-} ]]; then
    echo "$TORCH_SPEC" >"$scratch/torch.txt"
  else
    cp "$requirements/torch.txt" "$scratch/torch.txt"
  fi
  local pinned=("${pins[@]}")
  pins=()
  missing "$scratch/torch.txt"
  pins=("${pinned[@]}")
  if [[ ${#wanted[@]} == 0 ]]; then
    kept_torch=$installed
    return
  fi
  if [[ -n ${TORCH_SPEC:-} ]]; then
    spec=$TORCH_SPEC
  elif [[ -n $installed ]]; then
    fail "PyTorch $installed is installed in $prefix, but ${wanted[0]} is supported:" \
      "name the one to install, as in TORCH_SPEC=$(pinned_torch), or keep it with" \
      "TORCH_SPEC=torch==$installed"
  else
    spec=$(pinned_torch)
    options=(-c "$requirements/constraints.txt")
  fi
  if [[ -n ${TORCH_INDEX_URL:-} ]]; then options+=(--index-url "$TORCH_INDEX_URL"); fi
  step "Installing $spec" pip install "${options[@]}" "$spec"
}

pinned_torch() {
  grep '^torch==' "$requirements/constraints.txt"
}

repair_packages() {
  local damaged
  damaged=$("$python" "$helpers/damaged_packages.py" 2>>"$log" | grep -v '^onedl-mmcv==') || true
  if [[ -n $damaged ]]; then
    mapfile -t damaged <<<"$damaged"
    step "Mending what a broken-off run left: ${damaged[*]}" \
      pip install --no-deps --no-build-isolation --ignore-installed "${damaged[@]}"
  fi
}

install_project() {
  if "$python" - "$root" >>"$log" 2>&1 <<'CHECK'; then return; fi
import json, pathlib, re, sys
from importlib import metadata

root = pathlib.Path(sys.argv[1])
package = metadata.distribution("mmdet-eql")
origin = json.loads(package.read_text("direct_url.json"))
assert origin == {"dir_info": {"editable": True}, "url": root.as_uri()}, origin
version = re.search(r'^__version__ = "(.+)"', (root / "mmdet_eql/__init__.py").read_text(), re.M)
assert version[1] == package.version, package.version
record = package.locate_file(next(f for f in package.files if f.name == "RECORD"))
for name in ("setup.cfg", "pyproject.toml"):
    assert (root / name).stat().st_mtime <= record.stat().st_mtime, name
CHECK
  step "Installing mmdet-eql in editable mode" \
    pip install --no-deps --no-build-isolation -e "$root"
}

install_mmcv() {
  # In an environment of the user's own, an MMCV that was built by other means is kept if in range.
  missing "$requirements/openmmlab.txt"
  if [[ $active == yes && " ${wanted[*]} " != *" onedl-mmcv"* ]]; then mmcv_options+=(--keep); fi
  "$python" "$helpers/install_mmcv.py" --cache "$cache" --log "$log" "${mmcv_options[@]}" \
    "$(grep '^onedl-mmcv==' "$requirements/constraints.txt")" 2>"$scratch/error" || {
    # Without a last word of its own it was killed.
    [[ -s $scratch/error ]] || echo "installing MMCV was broken off." >"$scratch/error"
    cat "$scratch/error" >>"$log"
    fail "$(tail -n 1 "$scratch/error")"
  }
}

prove() {
  # Its report is for the user; the libraries' own messages are not.
  "$python" "$helpers/check_env.py" 2>>"$log" >"$scratch/proof" ||
    fail "the environment is set up, but its proof failed: $(tail -n 1 "$log")"
  tail -n 4 "$scratch/proof" | sed 's/^/    /'
}

main() {
  active=no
  mmcv_options=()
  while (($#)); do
    case $1 in
      --active) active=yes ;;
      --cpu-ops) mmcv_options+=(--cpu-ops) ;;
      -h | --help) usage && exit ;;
      *) fail "'$1' is not an option; see bash tools/setup_env.sh --help" ;;
    esac
    shift
  done

  # PyTorch and pip answer questions of their own environment, not of whatever is set around it.
  unset PYTHONPATH PYTHONHOME
  export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PYTHONUNBUFFERED=1

  base_python=
  kept_torch=
  choose_environment
  command -v flock >/dev/null || fail "the command flock is needed; it comes with util-linux."
  cache=${MMDET_EQL_CACHE:-$root/.cache}
  mkdir -p "$cache" "$root/.cache" && cache=$(cd "$cache" && pwd) ||
    fail "the folder $cache cannot be made."

  # Two runs at once would install over each other. All that is started below holds the lock too, so
  # what a killed run leaves running is waited for.
  local lock_file=$root/.cache/setup_env.lock
  if [[ $active == yes ]]; then lock_file=$prefix/setup_env.lock; fi
  exec {lock}>"$lock_file" || fail "$lock_file cannot be written."
  if ! flock --nonblock "$lock"; then
    echo "Waiting for another run that sets up $prefix"
    flock "$lock"
  fi
  log=$root/.cache/setup_env.log
  : >"$log"
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT

  local constrain=()
  if [[ $active == yes ]]; then
    pins=()
  else
    pins=(--pins "$requirements/constraints.txt")
    constrain=(-c "$requirements/constraints.txt")
    make_venv
  fi

  local unfinished=$prefix/setup_env.unfinished
  if [[ -e $unfinished ]]; then repair_packages; fi
  touch "$unfinished"
  install_missing "build tools" "${constrain[@]}" -- "$requirements/build.txt"
  install_torch
  install_missing "libraries" "${constrain[@]}" -- "$root/requirements.txt" "$requirements/dev.txt"
  step "MMCV with compiled operators${kept_torch:+ for PyTorch $kept_torch}" install_mmcv
  install_missing "OpenMMLab packages" --no-deps --no-build-isolation -- "$requirements/openmmlab.txt"
  install_missing "box fusion" --no-deps -- "$requirements/merge.txt"
  install_project
  rm "$unfinished"
  step "Proof" prove
  echo "Ready after $((SECONDS - started)) s: $python"
}

main "$@"
