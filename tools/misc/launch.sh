# Sourced by the launchers: the interpreter PYTHON, and functions that check arguments and start processes.
tools="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# That of the active environment, or without one that of the .venv that tools/setup_env.sh makes.
if [[ -z "${PYTHON:-}" ]]; then
  PYTHON=python
  [[ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" && -x "$tools/../.venv/bin/python" ]] &&
    PYTHON="$tools/../.venv/bin/python"
fi

fail() {
  echo "$*" >&2
  exit 2
}

require_file() { # WHAT PATH
  [[ -f "$2" || "$2" == *://* ]] || fail "error: $2: no such $1; correct the path."
}

# SCRIPT GPUS ARGS...: starts one process per GPU (or per CPU rank) of this node. Set NNODES, NODE_RANK,
# MASTER_ADDR and PORT for several.
run_distributed() {
  local script=$1 gpus=$2
  shift 2
  [[ "$gpus" =~ ^[1-9][0-9]*$ ]] ||
    fail "error: GPUS is '$gpus'; give the number of GPUs (or CPU ranks) of this node."
  local rendezvous=(--standalone) # any free port
  if [[ "${NNODES:-1}" != 1 || -n "${PORT:-}" ]]; then
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

# PARTITION JOB_NAME SCRIPT ARGS...: starts GPUS tasks (default 8), GPUS_PER_NODE (8) to a node with
# CPUS_PER_TASK (5) cores each; SRUN_ARGS are further options of srun.
run_slurm() {
  local partition=$1 job_name=$2
  shift 2
  local gpus=${GPUS:-8}
  local per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
  local srun_args
  read -r -a srun_args <<<"${SRUN_ARGS:-}"
  exec srun --partition="$partition" --job-name="$job_name" --gres="gpu:$per_node" \
    --ntasks="$gpus" --ntasks-per-node="$per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 ${srun_args[@]+"${srun_args[@]}"} \
    "$PYTHON" -u "$@" --launcher slurm
}
