#!/usr/bin/env bash
# Train on several GPUs, or on several CPU processes where there is no GPU.
# Several nodes: NNODES, NODE_RANK, MASTER_ADDR, PORT.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/misc/launch.sh"
(($# >= 2)) || fail "usage: $0 CONFIG GPUS [options of train.py]"
require_file config "$1"
run_distributed "$tools/train.py" "$2" "$1" "${@:3}"
