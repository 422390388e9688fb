"""From a config file and command-line options to a runner, on GPUs and on the CPU alike."""

import argparse
import glob
import logging
import os
import os.path as osp
import re
import sys

import torch
import torch.distributed
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmdet_eql.engine.checkpoint import address_of, fetch, load_checkpoint_file
from mmdet_eql.engine.config_check import typed_parts
from mmdet_eql.engine.config_keys import check_options
from mmdet_eql.engine.num_classes import set_num_classes
from mmdet_eql.engine.startup import QuietRunner, SummaryHook
from mmdet_eql.utils.errors import FULL_DISK, UserError
from mmdet_eql.utils.gathered_metric import GatheredMetric


def load_config(args: argparse.Namespace) -> Config:
    """Read ``args.config`` and apply the options of ``tools/arguments.py``; ``args.checkpoint``, if
    the tool has one, becomes ``load_from``. A UserError if one of the files is missing."""
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg = read_config(args.config)
    merge_options(cfg, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = osp.join("work_dirs", osp.splitext(osp.basename(args.config))[0])
    if "checkpoint" in args:
        if "://" not in args.checkpoint and not osp.isfile(args.checkpoint):
            raise UserError(f"{args.checkpoint}: no such checkpoint; correct the path.")
        cfg.load_from = args.checkpoint
    return cfg


def read_config(path: str) -> Config:
    """Read a ``.py``, ``.json`` or ``.yaml`` config and merge its bases.

    A config is a Python program and is run: read only those you trust. A UserError if the file or
    a base is missing or is not a config.
    """
    if not osp.isfile(path):
        raise UserError(f"{path}: no such config; correct the path (see configs/).")
    try:
        # mmengine logs each variable of the environment that a base is filled in with.
        logger = MMLogger.get_current_instance()
        logger.addFilter(_is_warning)
        try:
            cfg = Config.fromfile(path)
        finally:
            logger.removeFilter(_is_warning)
    except FileNotFoundError as error:
        raise UserError(f"{path}: its base is missing ({error}); correct '_base_'.") from None
    except SyntaxError as error:
        # mmengine parses a filled-in copy of the file, whose name would tell the user nothing.
        raise UserError(f"{path}: line {error.lineno} is not Python ({error.msg}).") from None
    except ImportError as error:
        first: BaseException = error
        while first.__context__ is not None:  # mmengine's list all folders of Python
            first = first.__context__
        raise UserError(
            f"{path}: cannot import what 'custom_imports' or a base names ({first}); install it, "
            "e.g. by `bash tools/setup_env.sh`, or add the folder of a file of your own to the "
            "environment variable PYTHONPATH."
        ) from None
    except Exception as error:  # a config is a program and can raise anything
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: is not a valid config ({reason}); correct it.") from None
    # mmengine prints a config three times a start and once a checkpoint, which takes yapf a second
    # each; the text is indented without it.
    return Config(
        cfg.to_dict(),
        cfg_text=cfg.text,
        filename=cfg.filename,
        env_variables=cfg.env_variables,
        format_python_code=False,
    )


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def merge_options(cfg: Config, options: dict | None) -> None:
    """Override keys of a config by a dict of new values by dotted key.

    A UserError if a key leads through something that is no dict or list, or nothing would read it.
    """
    check_options(cfg, options or {})
    try:
        cfg.merge_from_dict(options or {})
    except (TypeError, KeyError, IndexError, AttributeError, AssertionError) as error:
        raise UserError(
            f"--cfg-options does not fit {cfg.filename} ({error}); see its keys with "
            f"`python tools/misc/print_config.py {cfg.filename}`."
        ) from None


def fetch_weights(cfg: Config) -> None:
    """Download the weights that a training begins from, as far as they are missing; a UserError
    with the key of the config if that fails."""
    names = {"load_from": cfg.get("load_from")}
    for key, part in typed_parts(cfg.model, "model"):
        if part["type"] == "Pretrained":
            names[f"{key}.checkpoint"] = part.get("checkpoint")
    for key, name in names.items():
        try:
            url = address_of(name or "")
            if url.startswith(("http://", "https://")):
                fetch(url)
        except UserError as error:
            raise UserError(f"{key}: {error}") from None


def build_runner(cfg: Config, *loops: str) -> Runner:
    """Build the runner, with gloo instead of NCCL where there is no GPU.

    A run with ``cfg.resume`` goes on from ``cfg.load_from``, by default from its last checkpoint
    that is whole, with the seed of the checkpoint. Of the ``loops`` ``"train"``, ``"val"`` and
    ``"test"`` those that are named are built with their datasets. A UserError if that fails, or all
    checkpoints to resume from are damaged.
    """
    if cfg.get("resume") and cfg.get("load_from") is None:
        cfg.load_from = find_last_checkpoint(cfg)
        cfg.resume = cfg.load_from is not None
    given = seed = (cfg.get("randomness") or {}).get("seed")
    if cfg.get("resume") and "://" not in cfg.load_from:
        checkpoint = load_checkpoint_file(cfg.load_from, "cpu")
        if missing := _missing_parts(checkpoint):
            raise UserError(
                f"{cfg.load_from}: cannot be resumed from, since it has no {', '.join(missing)}; "
                "begin anew from its weights by load_from without --resume."
            )
        # mmengine reads the seed of the checkpoint when the samplers have theirs already.
        seed = checkpoint["meta"].get("seed")
        if seed is not None:
            cfg.randomness = dict(cfg.get("randomness") or {}, seed=seed)
    set_num_classes(cfg, loops or ["train"])
    if cfg.launcher != "none" and not torch.cuda.is_available():
        _init_cpu_processes(cfg)
    try:
        runner = RUNNERS.build(cfg) if "runner_type" in cfg else QuietRunner.from_cfg(cfg)
        runner.register_hook(SummaryHook())
        for name in ("ClassListHook", "FixedAPTestHook"):
            if name not in {type(hook).__name__ for hook in runner.hooks}:
                runner.register_hook(dict(type=name))
        for loop in loops:
            getattr(runner, f"{loop}_loop")  # is built when it is first asked for
    except UserError:
        raise
    except Exception as error:  # a constructor raises whatever it comes upon
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{cfg.filename or 'the config'}: the runner cannot be built ({reason}); correct the "
            "values that it is built from."
        ) from error
    if given is not None and seed not in (None, given):
        runner.logger.warning(
            f"{cfg.load_from}: was trained with the seed {seed}, which stays in force, not "
            f"{given}; to train with another seed, give another --work-dir."
        )
    return runner


def _init_cpu_processes(cfg: Config) -> None:
    # mmengine's init_dist sets a CUDA device whatever the backend; it leaves a process group alone
    # that exists. Its model wrapper names a device id by default, which DDP refuses on the CPU.
    if cfg.launcher != "pytorch":
        raise UserError(
            f"--launcher {cfg.launcher} needs GPUs; on CPUs start the job by tools/dist_train.sh "
            "or tools/dist_test.sh."
        )
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    cfg.setdefault(
        "model_wrapper_cfg",
        dict(
            type="MMDistributedDataParallel",
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get("find_unused_parameters", False),
        ),
    )


def enable_amp(cfg: Config, dtype: str | None = None) -> None:
    """Train with automatic mixed precision in ``"float16"`` or ``"bfloat16"``.

    The default is that of the config or, if it names none, float16 on a GPU.

    A UserError if it is float16 and there is no GPU, or the config has a wrapper of its own.
    """
    gpu = torch.cuda.is_available()
    if dtype == "float16" and not gpu:
        raise UserError(
            "--amp-dtype float16: needs a GPU, and none is visible; leave it out for bfloat16."
        )
    wrapper = cfg.optim_wrapper.get("type", "OptimWrapper")
    if wrapper not in ("OptimWrapper", "AmpOptimWrapper", "BFloat16OptimWrapper"):
        raise UserError(
            f"--amp: optim_wrapper.type is {wrapper!r}, which has no mixed-precision twin; set it "
            "to 'AmpOptimWrapper' or 'BFloat16OptimWrapper' in the config."
        )
    if wrapper == "BFloat16OptimWrapper" or cfg.optim_wrapper.get("dtype") == "bfloat16" or not gpu:
        dtype = dtype or "bfloat16"
    if dtype == "bfloat16":
        cfg.optim_wrapper.type = "BFloat16OptimWrapper"
        for key in ("loss_scale", "dtype"):  # of an AmpOptimWrapper
            cfg.optim_wrapper.pop(key, None)
    else:
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.dtype = "float16"
        cfg.optim_wrapper.setdefault("loss_scale", "dynamic")


def enable_determinism(cfg: Config) -> None:
    """Use deterministic operators, and seed 0 where the config names no seed; see
    docs/reliability.md for what remains random on a GPU."""
    # Without a workspace of fixed size, cuBLAS may take another algorithm each time.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    randomness = dict(cfg.get("randomness") or {})
    if randomness.get("seed") is None:
        randomness["seed"] = 0
    cfg.randomness = dict(randomness, deterministic=True)


def enable_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate with the batch size; a UserError without a base batch size."""
    if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
        raise UserError(
            "--auto-scale-lr: the config has no auto_scale_lr.base_batch_size; add the batch size "
            "that its learning rate is meant for."
        )
    cfg.auto_scale_lr.enable = True


def set_resume(cfg: Config, resume: str | None) -> None:
    """Go on from a checkpoint, or with ``"auto"`` from the last one in the work_dir, if any.

    A UserError if the checkpoint does not exist, or all in the work_dir are damaged.
    """
    if resume == "auto":
        resume = find_last_checkpoint(cfg)
    elif resume is not None and "://" not in resume and not osp.isfile(resume):
        raise UserError(
            f"{resume}: no such checkpoint to resume from; correct the path, or give --resume "
            f"alone for the last one in {cfg.work_dir}."
        )
    if resume is not None:
        cfg.resume = True
        cfg.load_from = resume


def find_last_checkpoint(cfg: Config) -> str | None:
    """Return the newest checkpoint of a run that is whole; None without any checkpoint.

    The one that the file ``last_checkpoint`` names (a path or a URI) comes first, then all others
    in the config's ``work_dir`` and ``default_hooks.checkpoint.out_dir`` by their time. Each is
    read in full. A warning on stderr names what is passed over; a UserError if none can be resumed.
    """
    folders = [cfg.work_dir]
    out_dir = str((cfg.get("default_hooks") or {}).get("checkpoint", {}).get("out_dir") or "://")
    if "://" not in out_dir:
        # CheckpointHook appends the last part of the work_dir.
        folders.append(osp.join(out_dir, osp.basename(cfg.work_dir.rstrip(os.sep))))
    try:
        with open(osp.join(cfg.work_dir, "last_checkpoint"), encoding="utf-8") as file:
            named = file.read().strip()
    except (OSError, UnicodeDecodeError):
        named = ""
    if "://" in named:
        return named
    # Paths are relative to the folder that the run was started in, and folders get moved; where one
    # was copied, that of the original is another run's.
    own = [osp.abspath(osp.join(folder, osp.basename(named))) for folder in folders]
    candidates = [*own, named]
    candidates = [path for path in candidates if osp.isfile(path)][:1]
    others = []
    for path in (path for folder in folders for path in glob.glob(f"{glob.escape(folder)}/*.pth")):
        step = re.fullmatch(r"(?:iter|epoch)_(\d+)\.pth", osp.basename(path))
        if step and path not in candidates:
            others.append((osp.getmtime(path), int(step[1]), path))
    candidates += [path for *_, path in sorted(others, reverse=True)]
    reasons = []
    for path in candidates:
        try:
            checkpoint = load_checkpoint_file(path, "cpu")
        except UserError as error:
            reasons.append(str(error).rstrip("."))
            continue
        if missing := _missing_parts(checkpoint):
            reasons.append(f"{path}: holds weights alone (no {', '.join(missing)})")
            continue
        if reasons and os.environ.get("RANK", "0") == "0":
            message = f"warning: {'; '.join(reasons)}; resuming from {path} instead."
            print(message, file=sys.stderr, flush=True)
        return path
    if reasons:
        raise UserError(
            f"{cfg.work_dir}: none of its checkpoints can be resumed from ({'; '.join(reasons)}); "
            "start anew in another --work-dir, or without --resume."
        )
    return None


def _missing_parts(checkpoint: dict) -> list[str]:
    """What a checkpoint lacks that a training needs to go on from it."""
    parts = ("meta", "state_dict", "message_hub", "optimizer")
    return [key for key in parts if not isinstance(checkpoint.get(key), dict)] or [
        f"meta.{key}" for key in ("iter", "epoch") if type(checkpoint["meta"].get(key)) is not int
    ]


def set_visualization(cfg: Config, show: bool, show_dir: str | None, wait_time: float) -> None:
    """Show predictions for ``wait_time`` seconds each, or save them to
    ``work_dir/timestamp/show_dir``, while testing; a UserError without a visualization hook."""
    if not show and show_dir is None:
        return
    hook = cfg.get("default_hooks", {}).get("visualization")
    if hook is None:
        raise UserError(
            "--show/--show-dir: the config has no default_hooks.visualization; add "
            "dict(type='DetVisualizationHook')."
        )
    hook.draw = True
    if show:
        hook.show = True
        hook.wait_time = wait_time
    if show_dir is not None:
        hook.test_out_dir = show_dir


def enable_tta(cfg: Config) -> None:
    """Put ``tta_model`` around the model, and ``tta_pipeline`` in the place of the test set's; a
    UserError if the config lacks one of them."""
    missing = [key for key in ("tta_model", "tta_pipeline") if key not in cfg]
    if missing:
        raise UserError(
            f"--tta: {cfg.filename} has no {' and no '.join(missing)}; inherit "
            "configs/_base_/datasets/lvis_format_instance.py, or set them as there."
        )
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:  # wrapped
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline


def dump_predictions(runner: Runner, path: str) -> None:
    """Have a runner write its test predictions to a pickle file, for the user's own scripts."""
    from mmdet.evaluation import DumpDetResults

    class GatheredResults(GatheredMetric, DumpDetResults):
        """Results that do not pass through files of the current folder."""

    runner.test_evaluator.metrics.append(GatheredResults(out_file_path=path))
