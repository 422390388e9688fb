#!/usr/bin/env bash
# Test under Slurm, with GPUS=8, GPUS_PER_NODE=8, CPUS_PER_TASK=5 and SRUN_ARGS of the environment.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/misc/launch.sh"
(($# >= 4)) || fail "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [options of test.py]"
run_slurm "$1" "$2" "$tools/test.py" "$3" "$4" "${@:5}"
