# Sourced by dist_train.sh and dist_test.sh: run_distributed SCRIPT GPUS ARGS... starts one process
# per GPU (or per CPU rank) of this node. Set NNODES, NODE_RANK, MASTER_ADDR and PORT for several.
tools="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$tools/misc/python.sh"

require_file() { # WHAT PATH
  if [[ ! -f "$2" && "$2" != *://* ]]; then
    echo "error: $2: no such $1; correct the path." >&2
    exit 2
  fi
}

run_distributed() {
  local script=$1 gpus=$2
  shift 2
  if [[ ! "$gpus" =~ ^[1-9][0-9]*$ ]]; then
    echo "error: GPUS is '$gpus'; give the number of GPUs (or CPU ranks) of this node." >&2
    exit 2
  fi
  local rendezvous
  if [[ "${NNODES:-1}" == 1 && -z "${PORT:-}" ]]; then
    rendezvous=(--standalone) # any free port
  else
    rendezvous=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}"
      --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}")
  fi
  # More threads than cores slow every rank down.
  local cores
  cores=$(nproc 2>/dev/null || echo 1)
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores / gpus > 1 ? cores / gpus : 1))}
  exec "$PYTHON" -m torch.distributed.run "${rendezvous[@]}" --nproc_per_node="$gpus" \
    "$script" "$@" --launcher pytorch
}
