#!/usr/bin/env bash
# Test on several GPUs, or on several CPU processes where there is no GPU.
# Usage: tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]
# Several nodes: NNODES, NODE_RANK, MASTER_ADDR, PORT.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/misc/torchrun.sh"

if [[ $# -lt 3 ]]; then
  echo "usage: $0 CONFIG CHECKPOINT GPUS [options of test.py]" >&2
  exit 2
fi
require_file config "$1"
require_file checkpoint "$2"
run_distributed "$tools/test.py" "$3" "$1" "$2" "${@:4}"
