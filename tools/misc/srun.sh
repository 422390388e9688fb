# Sourced by slurm_train.sh and slurm_test.sh: run_slurm PARTITION JOB_NAME SCRIPT ARGS... starts
# GPUS tasks (default 8), GPUS_PER_NODE (8) to a node with CPUS_PER_TASK (5) cores each; SRUN_ARGS
# are further options of srun.
tools="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source "$tools/misc/python.sh"

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
