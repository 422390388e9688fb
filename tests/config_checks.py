"""What can be wrong with a config that still runs: keys that nothing reads."""

import ast
import functools
import inspect
import re
from pathlib import Path
from typing import Any
from unittest import mock

import mmcv.ops
import mmdet.registry
import mmengine.config.utils
import mmengine.registry
from mmengine.config import Config
from mmengine.registry import Registry

from mmdet_eql.decoupled.training_config import SCHEDULE
from mmdet_eql.engine import config_keys

REGISTRIES = [
    registry
    for module in (mmdet.registry, mmengine.registry)
    for registry in vars(module).values()
    if isinstance(registry, Registry)
]
#: What is read of a config, and variables of MMDetection's own files.
TOP_LEVEL_KEYS = {*config_keys.TOP_LEVEL_KEYS, "vis_backends", "norm_cfg"}
#: Keys that are taken out of a dict with a type before it is built, by a pattern of its place.
TAKEN_OUT = {
    r".*norm_cfg": {"requires_grad"},
    r".*\.dcn": {"fallback_on_stride"},
    r".*\.init_cfg": {"override"},
    r".*\.init_cfg\.override": {"name"},
    r"param_scheduler\.\d+": {"convert_to_iter_based"},
    r"optim_wrapper": {"paramwise_cfg"},
    r"custom_hooks\.\d+": {"priority"},
}
_RPN = {"assigner", "sampler", "allowed_border", "pos_weight", "debug"}
_RCNN = {"assigner", "sampler", "mask_size", "pos_weight", "debug"}
#: Of a transformer, its layers and their parts.
_TRANSFORMER = {
    *("num_layers", "layer_cfg", "self_attn_cfg", "cross_attn_cfg", "ffn_cfg", "embed_dims"),
    *("num_heads", "num_levels", "dropout", "feedforward_channels", "ffn_drop", "batch_first"),
    *("return_intermediate", "post_norm_cfg"),
}
_PROPOSALS = {"nms_pre", "max_per_img", "nms", "min_bbox_size"}
#: What passes its further keywords on to something else than its base class.
PASSED_ON = {
    "RandomResize": "Resize",
    "RandomChoiceResize": "Resize",
    "EMAHook": "ExpMomentumEMA",
}
#: The keys that are read of a dict without a type, by a pattern of its place; first match.
PLAIN_DICTS = {
    r"model\.train_cfg": {"rpn", "rpn_proposal", "rcnn", *_RPN},  # those of one stage
    r"model\.(encoder|decoder)(\.layer_cfg(\.\w+_cfg)?)?": _TRANSFORMER,
    r"model\.positional_encoding": {"num_feats", "normalize", "offset", "temperature"},
    r"model\.dn_cfg": {"label_noise_scale", "box_noise_scale", "group_cfg"},
    r"model\.dn_cfg\.group_cfg": {"dynamic", "num_groups", "num_dn_queries"},
    r"model\.train_cfg\.rpn": _RPN,
    r"model\.train_cfg\.rcnn(\.\d)?": _RCNN,
    r"model\.(train_cfg\.rpn_proposal|test_cfg\.rpn)": _PROPOSALS,
    r"model\.test_cfg": {"rpn", "rcnn", "score_thr", *_PROPOSALS},
    r"tta_model\.tta_cfg": {"nms", "max_per_img"},
    r"model\.test_cfg\.rcnn": {"score_thr", "nms", "max_per_img", "mask_thr_binary"},
    r"(train|val|test)_dataloader": {
        *("batch_size", "num_workers", "persistent_workers", "drop_last", "pin_memory"),
        *("sampler", "batch_sampler", "dataset", "collate_fn", "prefetch_factor"),
    },
    r".*\.pad_val": {"img", "seg"},
    r"model\.neck\.upsample_cfg": {"mode", "scale_factor"},
    r".*\.data_prefix": {"img", "seg"},
    r".*\.filter_cfg": {"filter_empty_gt", "min_size"},
    r".*\.metainfo": {"classes", "palette"},
    r"optim_wrapper\.clip_grad": {"max_norm", "norm_type"},
    r"optim_wrapper\.paramwise_cfg": {
        *("norm_decay_mult", "bias_decay_mult", "bias_lr_mult", "custom_keys", "bypass_duplicate")
    },
    r"optim_wrapper\.paramwise_cfg\.custom_keys": {
        *("backbone", "sampling_offsets", "reference_points"),
        *("absolute_pos_embed", "relative_position_bias_table", "norm", "fc_cls"),
    },
    r"optim_wrapper\.paramwise_cfg\.custom_keys\.\w+": {"lr_mult", "decay_mult"},
    r"auto_scale_lr": {"enable", "base_batch_size"},
    r"custom_imports": {"imports", "allow_failed_imports"},
    r"default_hooks": {
        *("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint"),
        *("visualization", "gradient_record", "partial_load", "fixed_ap"),
    },
    r"env_cfg": {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"},
    r"env_cfg\.mp_cfg": {"mp_start_method", "opencv_num_threads"},
    r"env_cfg\.dist_cfg": {"backend", "timeout"},
    r"randomness": {"seed", "deterministic", "diff_rank_seed"},
    r"decoupled": {*SCHEDULE},
    r"decoupled\.optimizer": {*SCHEDULE["optimizer"]},
}


def unread_keys(path: Path, cfg: Config | None = None) -> list[str]:
    """List the keys of a merged config that nothing reads, and classes that are not registered.

    A top-level key that is no setting must be a variable of the config or one of its bases.

    Args:
        path (Path): The config.
        cfg (Config | None): The merged config where options change it; None for that of ``path``.

    Returns:
        list[str]: One sentence per fault.
    """
    cfg = cfg or read(path)
    known = TOP_LEVEL_KEYS | _variables(path)
    faults = [f"{key}: nothing reads it" for key in cfg if key not in known]
    for key in cfg:
        if key in TOP_LEVEL_KEYS:
            faults += _unread(cfg[key], key)
    return faults


def _unread(value: Any, place: str) -> list[str]:
    if isinstance(value, (list, tuple)):
        return [
            fault for index, item in enumerate(value) for fault in _unread(item, f"{place}.{index}")
        ]
    if not isinstance(value, dict):
        return []
    if "type" in value:
        faults, known = [], arguments_of(value["type"], place)
        if known is None:
            faults, known = [f"{place}.type: {value['type']!r} is not registered"], set(value)
    else:
        faults, known = [], _plain_keys(place)
        if known is None:
            faults, known = [f"{place}: a dict without a type, which nobody expects"], set(value)
    faults += [
        f"{place}.{key}: nothing reads it"
        for key in value
        if key not in known | {"type", "_scope_"}
    ]
    return faults + [
        fault for key, item in value.items() for fault in _unread(item, f"{place}.{key}")
    ]


def _plain_keys(place: str) -> set[str] | None:
    matches = (keys for pattern, keys in PLAIN_DICTS.items() if re.fullmatch(pattern, place))
    return next(matches, None)


def arguments_of(name: str, place: str) -> set[str] | None:
    """What is read of a dict with a type; None if nothing of that name is registered."""
    taken_out = (keys for pattern, keys in TAKEN_OUT.items() if re.fullmatch(pattern, place))
    arguments = _registered_arguments(name)
    return arguments and arguments.union(*taken_out)


@functools.cache
def _registered_arguments(name: str) -> set[str] | None:
    """The arguments of what is registered under a name, in whatever registry."""
    names = [name, PASSED_ON[name]] if name in PASSED_ON else [name]
    found = [registry.get(name) for registry in REGISTRIES for name in names]
    # RoI layers and NMS are looked up among mmcv's operators.
    found.append(getattr(mmcv.ops, name, None))
    found = [part for part in found if part is not None]
    return set().union(*map(_arguments, found)) | {"type"} if found else None


def _arguments(part: Any) -> set[str]:
    """Of a function, or of a class and, as far as it passes keywords on, its bases."""
    if not inspect.isclass(part):
        return set(inspect.signature(part).parameters)
    names = set()
    for base in part.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        names |= {each.name for each in parameters if each.kind is not each.VAR_KEYWORD}
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return names - {"self"}


@functools.cache
def _variables(path: Path) -> set[str]:
    """Names that a config or one of its bases reads as a variable."""
    names = set().union(*map(_variables, _bases(path)))
    # mmengine's placeholders, such as {{$MMDET_EQL_DATA:data}}, stand in strings alone.
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "_base_":
            names.add(node.attr)
    return names


def _bases(path: Path) -> list[Path]:
    """The bases of a config that no other package holds."""
    statement = re.search(
        r"^_base_ = (\[.*?\]|\".*?\")$", path.read_text(), re.DOTALL | re.MULTILINE
    )
    names = re.findall(r'"([^":]+)"', statement.group(1)) if statement else []
    return [path.parent / name for name in names]


def depth_of(path: Path) -> int:
    """Steps of inheritance from a config to its farthest base; those of other packages
    (``mmdet::...``) do not count."""
    return max((1 + depth_of(base) for base in _bases(path)), default=0)


_load = functools.cache(mmengine.config.utils.load)


@functools.cache
def read(path: Path) -> Config:
    """Read a config once, not to be changed.

    For each base of another package mmengine parses all metafiles of that package; here, once.
    """
    with mock.patch.object(mmengine.config.utils, "load", _load):
        return Config.fromfile(path)
