#!/usr/bin/env bash
# Reproduces the tables of docs/evidence.md. See usage below.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: bash tools/run_study.sh STUDY [SWEEP_ARGUMENT...]

Makes the data, trains all runs of configs/studies/STUDY.yaml and prints the tables of docs/evidence.md.
Stopped at any time, the same command goes on where it was. The environment must be active or in .venv.

  STUDY             minilvis (losses and samplers in a detector), minilvis-ablations (of EQL in it),
                    minilvis-dense (losses of a one-stage detector) or minilvis-crops (classification)
  SWEEP_ARGUMENT    passed on to tools/sweep.py (default: --jobs with the number of cores); with --dry-run
                    data are made, and nothing is trained

environment variables:
  MMDET_EQL_DATA    folder for the data (default: data in the repository)
  PYTHON            Python to run (default: that of the active environment, or of .venv)
USAGE
}

source "$(dirname "${BASH_SOURCE[0]}")/misc/launch.sh"
study=${1:-}
# The two on MiniLVIS share runs.
work_dir=work_dirs/${study%-ablations}
[[ -n ${MMDET_EQL_DATA:-} ]] && MMDET_EQL_DATA=$(realpath -m -- "$MMDET_EQL_DATA")

# Hours of one core as measured, beside other work: on an AMD EPYC, and on an Intel Xeon at 2.8 GHz.
case $study in
  minilvis) core_hours="5 to 7" ;;
  minilvis-ablations) core_hours="6 to 8.5 (3 to 4.5 after minilvis)" ;;
  minilvis-crops) core_hours=1.5 ;;
  minilvis-dense) core_hours= ;; # not measured
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

# Tables are for runs that have been trained here.
trains=true
tables=true
for argument; do
  case $argument in
    --dry-run) trains=false tables=false ;;
    --slurm | --slurm=*) tables=false ;;
  esac
done

cd "$tools/.."
data=${MMDET_EQL_DATA:-data}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
echo "$study takes ${core_hours:+about $core_hours }hours of one core, shared out among the jobs"

# A detector for the others to start from, trained on equally many images of all categories: CONFIG
# FOLDER
pretrain() {
  local config=configs/minilvis/$1_1xb4_minilvis.py folder=work_dirs/$2
  local -x MMDET_EQL_DATA=$data/minilvis-study/balanced
  [[ -e $folder/iter_3000.pth ]] && return
  $trains || return 0
  "$PYTHON" tools/datasets/make_minilvis.py "$MMDET_EQL_DATA/minilvis" --seed 1 \
    --steepness 0 --label-rate 1 --num-train-images 4000 --num-val-images 300
  "$PYTHON" tools/train.py "$config" \
    --work-dir "$folder" --resume --cfg-options randomness.seed=0 \
    train_cfg.max_iters=3000 train_cfg.val_interval=3000 \
    param_scheduler.1.end=3000 param_scheduler.1.milestones=[2300,2800]
}

if [[ $study != minilvis-crops ]]; then
  case $study in
    minilvis-dense) pretrain atss_r18_fpn_focal minilvis-dense-pretrained ;;
    *) pretrain mask-rcnn_r18_fpn minilvis-pretrained ;;
  esac
  export MMDET_EQL_DATA=$data/minilvis-study
  "$PYTHON" tools/datasets/make_minilvis.py "$MMDET_EQL_DATA/minilvis" \
    --num-train-images 2000 --num-val-images 600 --steepness 1.3
else
  [[ -e $data/minilvis_crops.npz ]] || "$PYTHON" tools/datasets/make_minilvis_crops.py
fi
"$PYTHON" tools/sweep.py "configs/studies/$study.yaml" --work-dir "$work_dir" "$@"
$tables || exit 0

# Tables and a page of runs: NAME BASELINE [OPTION] RUN...
compare() {
  local name=work_dirs/$1 baseline=$2
  shift 2
  echo
  "$PYTHON" tools/analysis/compare_runs.py "$@" --baseline "$baseline" \
    --markdown "$name.md" --html "$name.html"
  echo "The table is in $name.md, a page with plots in $name.html"
}

bins=(--image-bins 4,10,100)
case $study in
  minilvis)
    compare "$study" sigmoid "${bins[@]}" \
      "$work_dir"/{sigmoid,EQL,softmax,RFS,EQL+RFS,EQLv2,Seesaw}_seed=*
    compare "$study-with-rfs" RFS "${bins[@]}" "$work_dir"/{RFS,EQL+RFS}_seed=*
    gradients=()
    for run in "$work_dir"/{sigmoid,EQL,RFS,EQL+RFS}_seed=*; do
      name=${run##*/}
      gradients+=("${name%%_*}=$run")
    done
    "$PYTHON" tools/analysis/plot_gradients.py "${gradients[@]}" --out "work_dirs/$study.png"
    ;;
  minilvis-ablations)
    compare "$study-lambda" sigmoid "${bins[@]}" \
      "$work_dir"/{sigmoid,EQL,EQL_lambda={0.005,0.02,1}}_seed=*
    compare "$study-designs" EQL "${bins[@]}" "$work_dir"/EQL_seed=* "$work_dir"/EQL-*
    compare "$study-classifier" softmax "${bins[@]}" \
      "$work_dir"/{softmax,softmax_type=NormedLinear,Seesaw}_seed=*
    ;;
  minilvis-dense)
    compare "$study" focal "${bins[@]}" "$work_dir"/{focal,EFL,EQL,EFL+RFS}_seed=*
    ;;
  minilvis-crops)
    compare "$study" softmax "$work_dir"
    ;;
esac
