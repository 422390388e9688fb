#!/usr/bin/env bash
# Train under Slurm.
# Usage: [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...] \
#        tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of train.py]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/misc/srun.sh"

if [[ $# -lt 4 ]]; then
  echo "usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [options of train.py]" >&2
  exit 2
fi
run_slurm "$1" "$2" "$tools/train.py" "$3" --work-dir "$4" "${@:5}"
