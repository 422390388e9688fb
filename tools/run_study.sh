#!/usr/bin/env bash
# Reproduces the tables of docs/evidence.md. See usage below.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: bash tools/run_study.sh STUDY [SWEEP_ARGUMENT...]

Makes the data, trains all runs of configs/studies/STUDY.yaml and prints the table of docs/evidence.md.
Stopped at any time, the same command goes on where it was. The environment must be active or in .venv.

  STUDY             minilvis-crops
  SWEEP_ARGUMENT    passed on to tools/sweep.py (default: --jobs with the number of cores)

environment variables:
  MMDET_EQL_DATA    folder for the data (default: data in the repository)
  PYTHON            Python to run (default: that of the active environment, or of .venv)
USAGE
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
study=${1:-}
work_dir=work_dirs/$study
python=${PYTHON:-python}
[[ -z ${PYTHON:-}${VIRTUAL_ENV:-}${CONDA_PREFIX:-} && -x $root/.venv/bin/python ]] &&
  python=$root/.venv/bin/python
[[ -n ${MMDET_EQL_DATA:-} ]] && MMDET_EQL_DATA=$(realpath -m -- "$MMDET_EQL_DATA")

# Hours of one core as measured, beside other work, on an AMD EPYC.
case $study in
  minilvis-crops)
    baseline=softmax core_hours=1.5
    ;;
  -h | --help)
    usage
    exit
    ;;
  *)
    usage >&2
    exit 2
    ;;
esac
shift
(($#)) || set -- --jobs "$(nproc)"

cd "$root"
data=${MMDET_EQL_DATA:-data}
echo "$study takes about $core_hours hours of one core, shared out among the jobs"
[[ -e $data/minilvis_crops.npz ]] || "$python" tools/datasets/make_minilvis_crops.py
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} "$python" tools/sweep.py "configs/studies/$study.yaml" \
  --work-dir "$work_dir" "$@"
"$python" tools/analysis/compare_runs.py "$work_dir" --baseline "$baseline" \
  --markdown "$work_dir/table.md" --html "$work_dir/comparison.html"
echo "The table is in $work_dir/table.md, a page with plots in $work_dir/comparison.html"
