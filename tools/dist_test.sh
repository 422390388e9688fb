#!/usr/bin/env bash
# Test on several GPUs, or on several CPU processes where there is no GPU.
# Several nodes: NNODES, NODE_RANK, MASTER_ADDR, PORT.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/misc/launch.sh"
(($# >= 3)) || fail "usage: $0 CONFIG CHECKPOINT GPUS [options of test.py]"
require_file config "$1"
require_file checkpoint "$2"
run_distributed "$tools/test.py" "$3" "$1" "$2" "${@:4}"
