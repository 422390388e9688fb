"""Runs of a sweep: merged, identified, named, checked; on the configs of the classifiers."""

import copy
import re
import runpy
import shlex
import string
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config

from mmdet_eql.runs import planning
from mmdet_eql.runs.planning import (
    TrainingOptions,
    digest_of,
    plan_runs,
    short_keys,
    without_seed,
    write_run_files,
)
from mmdet_eql.runs.slurm import write_jobs
from mmdet_eql.runs.sweep_file import Entry, entries_of, read_entries
from mmdet_eql.utils.errors import UserError
from tests.classification.conftest import crops, crops_config, tiny_options
from tests.conftest import REPOSITORY

__all__ = ["crops"]  # the fixture

GAMMA = "model.head.loss_cls.gamma"


@pytest.fixture
def entries(crops):
    """Entries of a sweep of runs, each by method: ``entries(dict(config="seql"), ...)``."""

    def make(*runs: dict, **common) -> list[Entry]:
        options = tiny_options(crops)
        del options["randomness.seed"]
        runs = [{**run, "config": str(crops_config(run["config"]))} for run in runs]
        return entries_of({"options": options, **common, "runs": runs}, "test")

    return make


def names(plan):
    return [run.name for run in plan.runs]


def test_names_tell_what_differs(entries, tmp_path):
    common = dict(grid={"optim_wrapper.optimizer.lr": [0.1, 1e-5]}, seeds=[0, 1])
    seql = dict(config="seql", name="seql", options={GAMMA: 0.5})
    plan = plan_runs(entries(dict(config="softmax"), seql, **common), tmp_path)
    assert not plan.invalid
    assert names(plan) == [
        *(
            f"resnet14_softmax_1xb64-40e_minilvis-crops_lr={lr}_seed={seed}"
            for lr in ("0.1", "1e-05")
            for seed in (0, 1)
        ),
        *(f"seql_lr={lr}_seed={seed}" for lr in ("0.1", "1e-05") for seed in (0, 1)),
    ]
    run = plan.runs[-1]
    assert (run.cfg.randomness.seed, run.cfg.model.head.loss_cls.gamma) == (1, 0.5)
    assert run.label == "seql_lr=1e-05"
    assert len({run.identity for run in plan.runs}) == 8
    assert len({run.experiment for run in plan.runs}) == 4
    assert not list(tmp_path.iterdir())


def test_lists_become_tuples_where_the_config_has_them(tmp_path):
    (tmp_path / "base.py").write_text("model = dict(b=[dict(c=(1, 2), d=[1])], e=None)\n")
    options = {"b.0.c": [3, 4], "b.0.d": [5], "e": [6], "f": [7], "b.1.c": [8]}
    options = {f"model.{key}": value for key, value in options.items()}
    planner = planning._Planner(tmp_path, TrainingOptions(), {})
    entry = Entry(str(tmp_path / "base.py"), "base", dict(list(options.items())[:4]))
    cfg = planner.merged_config(entry).to_dict()
    assert cfg == {"model": {"b": [{"c": (3, 4), "d": [5]}], "e": [6], "f": [7]}}
    with pytest.raises(UserError, match="does not fit"):
        planner.merged_config(Entry(entry.config, "base", options))


def test_what_is_the_same_is_trained_once(entries, tmp_path):
    # 0.9 is what the config says.
    again = dict(config="seql", name="again", options={GAMMA: 0.9})
    plan = plan_runs(entries(dict(config="seql", name="seql"), again, seeds=[0, 1]), tmp_path)
    assert names(plan) == ["seql_seed=0", "seql_seed=1"]
    assert plan.repeated == 2


def test_how_it_is_trained_counts(entries, tmp_path):
    runs = entries(dict(config="softmax"))
    plans = [
        plan_runs(runs, tmp_path, options)
        for options in (
            TrainingOptions(),
            TrainingOptions(gpus=2),
            TrainingOptions(flags=("--amp", "--deterministic")),
            TrainingOptions(flags=("--deterministic", "--amp")),
        )
    ]
    one, two, three, same = (plan.runs[0].identity for plan in plans)
    assert len({one, two, three}) == 3
    assert three == same


def test_a_run_is_found_again_under_its_first_name(entries, tmp_path):
    first = plan_runs(entries(dict(config="softmax"), seeds=[0]), tmp_path)
    write_run_files(first.runs[0])
    renamed = entries(dict(config="softmax", name="baseline"), seeds=[0, 1])
    assert names(plan_runs(renamed, tmp_path)) == [first.runs[0].name, "baseline_seed=1"]
    # Another run does not get the folder of this one.
    runs = entries(dict(config="seql", name=first.runs[0].name))
    other = plan_runs(runs, tmp_path).runs[0]
    assert other.name == first.runs[0].name.replace("=", "-")
    (tmp_path / other.name).mkdir()
    assert plan_runs(runs, tmp_path).runs[0].name == f"{other.name}_{other.identity[:8]}"


def test_the_config_that_is_written_is_the_one_that_was_merged(entries, tmp_path):
    run = plan_runs(entries(dict(config="cb-softmax"), seeds=[3]), tmp_path).runs[0]
    write_run_files(run)
    assert Config.fromfile(str(run.config)).to_dict() == run.cfg.to_dict()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model.head.loss_cls.type": "NoLoss"}, "NoLoss is not in the mmdet::model registry"),
        ({"model.head.loss_cls.gama": 0.5}, "gama"),
        ({"model.head.loss_cls.gamma": "much"}, "loss_cls .* cannot be built"),
        ({"model.backbone.depth.x": 1}, "does not fit"),
        ({"train_dataloader.dataset.ann_file": "gone.npz"}, r"gone\.npz does not exist"),
        ({"val_evaluator.topk": [0]}, "topk"),
        ({"custom_hooks.0.type": "NoHook"}, "NoHook"),
        ({"optimizer.lr": 0.5}, "nothing reads 'optimizer'; set it .* optim_wrapper.optimizer"),
    ],
)
def test_what_is_broken_is_told_and_left_out(entries, tmp_path, options, reason):
    runs = [dict(config="seql", name="bad", options=options), dict(config="seql", name="good")]
    plan = plan_runs(entries(*runs, seeds=[0, 1]), tmp_path)
    assert names(plan) == ["good_seed=0", "good_seed=1"]
    assert len(plan.invalid) == 2
    assert plan.invalid[0].name.startswith("bad_")
    assert re.search(reason, plan.invalid[0].reason), plan.invalid[0].reason


def test_missing_configs_are_told(entries, tmp_path):
    found = [Entry("gone.py", "gone", {}), *entries(dict(config="softmax"))]
    (tmp_path / "bad.py").write_text("a = (\n")
    found.append(Entry(str(tmp_path / "bad.py"), "bad", {}))
    plan = plan_runs(found, tmp_path)
    assert len(plan.runs) == 1
    assert [entry.name for entry in plan.invalid] == ["gone", "bad"]
    assert "no such config" in plan.invalid[0].reason
    assert "is not Python" in plan.invalid[1].reason


def test_second_stages_come_after_their_first(entries, tmp_path):
    crt = dict(config="crt", name="crt", load_from="softmax")
    softmax = dict(config="softmax", name="softmax")
    plan = plan_runs(entries(crt, softmax, seeds=[0, 1]), tmp_path)
    assert names(plan) == ["softmax_seed=0", "softmax_seed=1", "crt_seed=0", "crt_seed=1"]
    assert [run.first_stage for run in plan.runs] == [None, None, *plan.runs[:2]]
    # It is another run if its first stage is.
    softmax["options"] = {"model.backbone.depth": 14}
    other = plan_runs(entries(crt, softmax, seeds=[0, 1]), tmp_path)
    assert not {run.experiment for run in plan.runs} & {run.experiment for run in other.runs}


def test_a_single_first_stage_serves_all_seeds(entries, tmp_path):
    crt = dict(config="crt", name="crt", load_from="softmax")
    softmax = dict(config="softmax", name="softmax", seeds=[7])
    plan = plan_runs(entries(crt, softmax, seeds=[0, 1]), tmp_path)
    assert names(plan) == ["softmax_seed=7", "crt_seed=0", "crt_seed=1"]
    assert [run.first_stage for run in plan.runs[1:]] == [plan.runs[0]] * 2
    assert plan.runs[1].experiment == plan.runs[2].experiment


def test_first_stages_that_are_not_one_are_told(entries, tmp_path):
    crt = dict(config="crt", name="crt", load_from="softmax", seeds=[0])
    grid = {"optim_wrapper.optimizer.lr": [0.1, 0.2]}
    plan = plan_runs(
        entries(crt, dict(config="softmax", name="softmax", seeds=[0], grid=grid)), tmp_path
    )
    assert "names 2 runs; it must be one" in plan.invalid[0].reason
    plan = plan_runs(entries(crt, dict(config="softmax", name="softmax", seeds=[1, 2])), tmp_path)
    assert "names 2 runs; it must be one" in plan.invalid[0].reason
    broken = dict(config="softmax", name="softmax", options={"model.head.type": "NoHead"})
    plan = plan_runs(entries(crt, broken), tmp_path)
    assert [item.reason[:9] for item in plan.invalid] == ["model.hea", "load_from"]
    circle = [dict(config="crt", name=a, load_from=b) for a, b in ("ab", "bc", "ca")]
    assert len(plan_runs(entries(*circle), tmp_path).invalid) == 3


def test_job_scripts(entries, tmp_path):
    crt = dict(config="crt", name="crt", load_from="softmax")
    runs = entries(dict(config="softmax", name="softmax"), crt, seeds=[0])
    plan = plan_runs(runs, tmp_path / "a b", TrainingOptions(16, ("--amp",)))
    submit, number = write_jobs(plan.runs, tmp_path / "a b", tmp_path / "tools", "gpu")
    assert number == 2
    lines = submit.read_text().splitlines()
    assert lines[2].startswith("job_0=$(sbatch --parsable '")
    assert lines[3].startswith('job_1=$(sbatch --parsable --dependency="afterok:$job_0" ')
    text = (tmp_path / "a b" / "slurm" / "crt_seed=0.sh").read_text()
    assert "#SBATCH --ntasks=16 --ntasks-per-node=8 --gres=gpu:8" in text
    assert f"slurm_train.sh gpu crt_seed=0 '{plan.runs[1].config}'" in text
    assert f"load_from=\"$(cat '{plan.runs[0].work_dir}/last_checkpoint')\"" in text
    assert "--resume --amp" in text


keys = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join)


@given(st.lists(keys, unique=True, max_size=8))
def test_short_keys_tell_keys_apart(dotted):
    shorts = short_keys([dotted])
    assert len(set(shorts.values())) == len(dotted)
    assert all(key.endswith(short) for key, short in shorts.items())


@given(st.dictionaries(st.sampled_from(string.ascii_letters), st.integers(), max_size=6))
def test_a_digest_does_not_depend_on_the_order(content):
    assert digest_of(content) == digest_of(dict(reversed(content.items())))


def test_a_config_without_its_seed_is_a_copy():
    cfg = Config(dict(randomness=dict(seed=3, deterministic=True), a=1))
    before = copy.deepcopy(cfg.to_dict())
    assert without_seed(cfg).to_dict() == dict(randomness=dict(deterministic=True), a=1)
    assert cfg.to_dict() == before
    only = Config(dict(randomness=dict(seed=3)))
    assert without_seed(only).to_dict() == without_seed(Config(dict())).to_dict()


@pytest.mark.parametrize("document", ["custom-data", "decoupled", "experiments"])
def test_the_documents_name_runs_as_sweeps_do(document, tmp_path, monkeypatch):
    """In ``--baseline`` of the comparison, and as the folder of a run."""
    text = (REPOSITORY / "docs" / f"{document}.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    (block,) = [block for block in blocks if "tools/sweep.py --" in block]
    lines = block.replace("\\\n", "").splitlines()
    variables = dict(re.findall(r"^(\w+)=(configs/\S+)", block, re.MULTILINE))
    (command,) = [line for line in lines if line.startswith("python tools/sweep.py")]
    command = shlex.split(string.Template(command).substitute(variables))[1:]
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.syspath_prepend("tools")
    monkeypatch.setattr(sys, "argv", command)
    args = runpy.run_path("tools/sweep.py")["parse_args"]()
    entries = read_entries(None, args.config, args.cfg_options, args.grid, args.seeds)
    plan = plan_runs(entries, tmp_path)
    # Without their data they are invalid, and have names all the same.
    names = {run.name for run in (*plan.runs, *plan.invalid)}
    baselines = re.findall(r"--baseline (\S+)", block)
    folders = re.findall(rf"^RUN={args.work_dir}/(\S+)", block, re.MULTILINE)
    assert baselines or folders
    assert {*folders, *(f"{baseline}_seed=0" for baseline in baselines)} <= names
