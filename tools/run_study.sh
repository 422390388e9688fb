#!/usr/bin/env bash
# Reproduces the tables of docs/evidence.md. See usage below.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: bash tools/run_study.sh STUDY [SWEEP_ARGUMENT...]

Makes the data, trains all runs of configs/studies/STUDY.yaml and prints the tables of docs/evidence.md.
Stopped at any time, the same command goes on where it was. The environment must be active or in .venv.

  STUDY             classifiers (losses and samplers on the features of one detector),
                    classifiers-ablations (of EQL on them), classifiers-tails (EQL on other sets),
                    classifiers-lvis (EQL and sampling with the image counts of LVIS),
                    classifiers-end-to-end (EQL without cached features), minilvis (losses and
                    samplers in a detector), minilvis-ablations (of EQL in it), minilvis-dense
                    (losses of a one-stage detector) or minilvis-crops (classification)
  SWEEP_ARGUMENT    passed on to tools/sweep.py (default: --jobs with the number of cores); with --dry-run
                    data are made, and nothing is trained

environment variables:
  LVIS_ANNOTATIONS  lvis_v0.5_train.json, for classifiers-lvis
  MMDET_EQL_DATA    folder for the data (default: data in the repository)
  PYTHON            Python to run (default: that of the active environment, or of .venv)
USAGE
}

source "$(dirname "${BASH_SOURCE[0]}")/misc/launch.sh"
study=${1:-}
# Ablations share runs with the study that they are of.
work_dir=work_dirs/${study%-ablations}
first_stage=work_dirs/classifiers/first_stage
# Sets that differ from that of classifiers in one option.
tails=(steepness=1.25 steepness=2.25 label-rate=0.2 label-rate=0.8)
[[ -n ${MMDET_EQL_DATA:-} ]] && MMDET_EQL_DATA=$(realpath -m -- "$MMDET_EQL_DATA")

# Hours of one core as measured, beside other work: on an AMD EPYC, and on an Intel Xeon at 2.8 GHz.
case $study in
  classifiers) core_hours=3.5 ;;
  classifiers-ablations) core_hours="2 (1 after classifiers)" ;;
  classifiers-tails) core_hours="2 (1.5 after classifiers)" ;;
  classifiers-lvis) core_hours="3 (2.5 after classifiers)" ;;
  classifiers-end-to-end) core_hours="2 (1 after classifiers)" ;;
  minilvis) core_hours="5 to 7" ;;
  minilvis-ablations) core_hours="6 to 8.5 (3 to 4.5 after minilvis)" ;;
  minilvis-crops) core_hours=1.5 ;;
  minilvis-dense) core_hours=4 ;;
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

if [[ $study == classifiers-lvis ]]; then
  counts=$(realpath -m -- "${LVIS_ANNOTATIONS:?is not set; set it to the path of lvis_v0.5_train.json}")
  require_file "annotation file" "$counts"
fi
cd "$tools/.."
data=${MMDET_EQL_DATA:-data}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
echo "$study takes about $core_hours hours of one core, shared out among the jobs"

# The data that a detector is trained on from scratch: equally many images of all categories. FOLDER
balanced() {
  "$PYTHON" tools/datasets/make_minilvis.py "$1/minilvis" --seed 1 \
    --steepness 0 --label-rate 1 --num-train-images 4000 --num-val-images 300
}

# A detector for the others to start from: CONFIG FOLDER
pretrain() {
  local config=configs/minilvis/$1_1xb4_minilvis.py folder=work_dirs/$2
  local -x MMDET_EQL_DATA=$data/minilvis-study/balanced
  [[ -e $folder/iter_3000.pth ]] && return
  $trains || return 0
  balanced "$MMDET_EQL_DATA"
  "$PYTHON" tools/train.py "$config" \
    --work-dir "$folder" --resume --cfg-options randomness.seed=0 \
    train_cfg.max_iters=3000 train_cfg.val_interval=3000 \
    param_scheduler.1.end=3000 param_scheduler.1.milestones=[2300,2800]
}

# The detector of the classifiers.
train_first_stage() {
  balanced "$data/minilvis-study/balanced"
  MMDET_EQL_DATA=$data/minilvis-study/balanced "$PYTHON" tools/sweep.py \
    configs/studies/classifiers-first-stage.yaml --work-dir "$first_stage" --gpus 2
}

# Its features of the images in MMDET_EQL_DATA: FOLDER
cache_features() {
  # The options of the sweep file that features depend on.
  OMP_NUM_THREADS=1 "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node=2 \
    tools/cache_features.py configs/minilvis/mask-rcnn_r18_fpn_1xb4_minilvis.py \
    "$(cat "$first_stage/first-stage_seed=0/last_checkpoint")" --out "$1" --rois 32 \
    --launcher pytorch --cfg-options \
    model.roi_head.mask_head=None model.roi_head.mask_roi_extractor=None \
    model.roi_head.bbox_head.reg_class_agnostic=True
}

# The data of classifiers: FOLDER [ARGUMENT...]
long_tailed() {
  "$PYTHON" tools/datasets/make_minilvis.py "$1/minilvis" \
    --num-train-images 20000 --num-val-images 1000 "${@:2}"
}

# All runs of the study: FOLDER [ARGUMENT...]
sweep() {
  "$PYTHON" tools/sweep.py "configs/studies/$study.yaml" --work-dir "$@"
}

case $study in
  classifiers | classifiers-ablations | classifiers-lvis)
    export MMDET_EQL_DATA=$data/${study%-ablations}
    if [[ $study == classifiers-lvis ]]; then
      "$PYTHON" tools/datasets/make_minilvis.py "$MMDET_EQL_DATA/minilvis" --num-categories 1000 \
        --num-train-images 57263 --num-val-images 5000 --image-counts "$counts"
    else
      long_tailed "$MMDET_EQL_DATA"
    fi
    if $trains; then
      train_first_stage
      cache_features "$work_dir/features"
      set -- "$@" --cfg-options "features=$work_dir/features"
    fi
    sweep "$work_dir" "$@"
    ;;
  classifiers-tails)
    $trains && train_first_stage
    for tail in "${tails[@]}"; do
      export MMDET_EQL_DATA=$data/classifiers-$tail
      long_tailed "$MMDET_EQL_DATA" "--$tail"
      features=()
      if $trains; then
        cache_features "$work_dir/$tail/features"
        features=(--cfg-options "features=$work_dir/$tail/features")
      fi
      sweep "$work_dir/$tail" "$@" ${features[@]+"${features[@]}"}
    done
    ;;
  classifiers-end-to-end)
    export MMDET_EQL_DATA=$data/classifiers
    long_tailed "$MMDET_EQL_DATA"
    $trains && train_first_stage
    sweep "$work_dir" "$@"
    ;;
  minilvis-crops)
    [[ -e $data/minilvis_crops.npz ]] || "$PYTHON" tools/datasets/make_minilvis_crops.py
    sweep "$work_dir" "$@"
    ;;
  *)
    case $study in
      minilvis-dense) pretrain atss_r18_fpn_focal minilvis-dense-pretrained ;;
      *) pretrain mask-rcnn_r18_fpn minilvis-pretrained ;;
    esac
    export MMDET_EQL_DATA=$data/minilvis-study
    "$PYTHON" tools/datasets/make_minilvis.py "$MMDET_EQL_DATA/minilvis" \
      --num-train-images 2000 --num-val-images 600 --steepness 1.3
    sweep "$work_dir" "$@"
    ;;
esac
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

# The ratio of positive and negative gradients: RUN...
gradients() {
  local run name named=()
  for run; do
    name=${run##*/}
    name=${name%%_*}
    named+=("${name%-gradients}=$run")
  done
  "$PYTHON" tools/analysis/plot_gradients.py "${named[@]}" --out "work_dirs/$study.png"
}

bins=(--image-bins 4,10,100)
case $study in
  classifiers)
    compare "$study" sigmoid "$work_dir"/{sigmoid,EQL,EQLv2,class-balanced,federated}_seed=* \
      "$work_dir"/{focal,EFL,softmax,SEQL,Seesaw}_seed=*
    compare "$study-with-rfs" sigmoid+RFS \
      "$work_dir"/{sigmoid,EQL,EQLv2,softmax,SEQL,Seesaw}+RFS_seed=*
    compare "$study-normalised" softmax \
      "$work_dir"/{softmax,softmax-normalised,Seesaw-linear,Seesaw,EQL,EQL-normalised}_seed=*
    ;;
  classifiers-ablations)
    compare "$study-lambda" sigmoid "$work_dir"/{sigmoid,EQL_lambda={0.0003,0.0005,0.001}}_seed=* \
      "$work_dir"/{EQL,EQL_lambda={0.005,0.01,0.02,0.05,1}}_seed=*
    for epochs in 1 2 8 16; do
      compare "$study-epochs-$epochs" "sigmoid_epochs=$epochs" \
        "$work_dir"/{sigmoid,EQL}_epochs=${epochs}_seed=*
    done
    compare "$study-designs" EQL "$work_dir"/EQL_seed=* \
      "$work_dir"/EQL-{without-E,exponential,Gompertz,image-labels}_seed=*
    compare "$study-thresholds" sigmoid \
      "$work_dir"/{sigmoid,EQL,{sigmoid,EQL}-scores-above-1e-3}_seed=*
    gradients "$work_dir"/{sigmoid,EQL,sigmoid+RFS,EQL+RFS}-gradients_seed=0
    ;;
  classifiers-tails)
    for tail in "${tails[@]}"; do
      compare "$study-$tail" sigmoid "$work_dir/$tail"/{sigmoid,EQL}_seed=*
    done
    ;;
  classifiers-lvis)
    compare "$study" sigmoid "$work_dir"/{sigmoid,EQL,sigmoid+RFS,EQL+RFS}_seed=*
    compare "$study-with-rfs" sigmoid+RFS "$work_dir"/{sigmoid,EQL}+RFS_seed=*
    ;;
  classifiers-end-to-end)
    compare "$study" sigmoid "$work_dir"/{sigmoid,EQL}_seed=*
    ;;
  minilvis)
    compare "$study" sigmoid "${bins[@]}" \
      "$work_dir"/{sigmoid,EQL,softmax,RFS,EQL+RFS,EQLv2,Seesaw}_seed=*
    compare "$study-with-rfs" RFS "${bins[@]}" "$work_dir"/{RFS,EQL+RFS}_seed=*
    gradients "$work_dir"/{sigmoid,EQL,RFS,EQL+RFS}_seed=*
    ;;
  minilvis-ablations)
    compare "$study-lambda" sigmoid "${bins[@]}" \
      "$work_dir"/{sigmoid,EQL,EQL_lambda={0.005,0.02,1}}_seed=*
    compare "$study-designs" EQL "${bins[@]}" "$work_dir"/EQL_seed=* "$work_dir"/EQL-*
    compare "$study-classifier" softmax "${bins[@]}" \
      "$work_dir"/{softmax,softmax_type=NormedLinear,Seesaw}_seed=*
    ;;
  minilvis-dense)
    compare "$study" focal "${bins[@]}" "$work_dir"/{focal,EFL,EFL+RFS,sigmoid,EQL}_seed=*
    compare "$study-sigmoid" sigmoid "${bins[@]}" "$work_dir"/{sigmoid,EQL}_seed=*
    ;;
  minilvis-crops)
    compare "$study" softmax "$work_dir"
    ;;
esac
