"""Runs as Slurm jobs: a job script for each, and one that submits them all."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mmdet_eql.runs.planning import SweepRun, write_run_files
from mmdet_eql.utils.files import write_text

_SCRIPT = """\
#!/usr/bin/env bash
#SBATCH --job-name={name}
#SBATCH --partition={partition}
#SBATCH --ntasks={gpus} --ntasks-per-node={per_node} --gres=gpu:{per_node}
#SBATCH --cpus-per-task={cpus}
#SBATCH --output={log}
#SBATCH --signal=USR1@120 --requeue
# Saves and queues itself again when it is preempted or its time is up.
cd {folder}
export PYTHON={python}
GPUS={gpus} GPUS_PER_NODE={per_node} CPUS_PER_TASK={cpus} \\
  bash {tools}/slurm_train.sh {partition} {name} {config} {work_dir} --resume {options}
status=$?
if [[ $status == 75 ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
if [[ $status == 0 ]]; then "$PYTHON" {tools}/sweep.py --record {work_dir}; fi
exit $status
"""


def write_jobs(
    runs: Sequence[SweepRun],
    work_dir: Path,
    tools: Path,
    partition: str,
    cpus_per_task: int = 5,
    gpus_per_node: int = 8,
) -> tuple[Path, int]:
    """Write a job script for each run that is not done, and one that submits them all.

    The scripts go to ``slurm/`` in the ``work_dir`` of the sweep; ``tools`` is the folder of
    ``slurm_train.sh``. Returns the script that submits, and the number of jobs.
    """
    folder = work_dir / "slurm"
    lines, job_of = ["#!/usr/bin/env bash", "set -euo pipefail"], {}
    for run in (run for run in runs if not run.is_done):
        write_run_files(run)
        options, dependency = list(map(shlex.quote, run.training.flags)), ""
        if run.first_stage is not None:
            last = shlex.quote(str(run.first_stage.work_dir.resolve() / "last_checkpoint"))
            # The name that it has when the first stage is done.
            options.append(f'--cfg-options load_from="$(cat {last})"')
            if run.first_stage.name in job_of:
                dependency = f'--dependency="afterok:${job_of[run.first_stage.name]}" '
        job_of[run.name] = f"job_{len(job_of)}"
        paths = {
            "log": run.work_dir.resolve() / "slurm-%j.log",
            "folder": Path.cwd(),
            "python": sys.executable,
            "tools": tools,
            "config": run.config.resolve(),
            "work_dir": run.work_dir.resolve(),
            "name": run.name,
            "partition": partition,
        }
        text = _SCRIPT.format(
            gpus=run.training.gpus,
            per_node=min(run.training.gpus, gpus_per_node),
            cpus=cpus_per_task,
            options=" ".join(options),
            **{key: shlex.quote(str(value)) for key, value in paths.items()},
        )
        script = folder / f"{run.name}.sh"
        write_text(script, text)
        quoted = shlex.quote(str(script.resolve()))
        lines.append(f"{job_of[run.name]}=$(sbatch --parsable {dependency}{quoted})")
    submit = folder / "submit.sh"
    write_text(submit, "\n".join([*lines, f'echo "submitted {len(job_of)} jobs"']) + "\n")
    return submit, len(job_of)
