#!/usr/bin/env bash
# Train on several GPUs, or on several CPU processes where there is no GPU.
# Usage: tools/dist_train.sh CONFIG GPUS [options of train.py]
# Several nodes: NNODES, NODE_RANK, MASTER_ADDR, PORT.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/misc/torchrun.sh"

if [[ $# -lt 2 ]]; then
  echo "usage: $0 CONFIG GPUS [options of train.py]" >&2
  exit 2
fi
require_file config "$1"
run_distributed "$tools/train.py" "$2" "$1" "${@:3}"
