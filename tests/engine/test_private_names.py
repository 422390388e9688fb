"""Private names of other packages that mmdet_eql uses, since there is no public way, and whether
they are still what was read."""

import ast
import hashlib
import importlib
import importlib.metadata
import inspect
import pkgutil
from pathlib import Path

import pytest

import mmdet_eql

_MMENGINE, _MMDET = "onedl-mmengine 0.10.12", "onedl-mmdetection 3.5.1"
#: What is said of several heads, which have a method each.
_MASK_LOGITS = (
    "heads/mask_head.py, heads/instance_tta.py",
    "overridden to select the masks of the labels; called for the mask logits of each stage",
    _MMDET,
)
_FEATURES = (
    "decoupled/frozen_detector.py",
    "called for the features of RoIs; the public methods go on to losses or NMS",
    _MMDET,
)

#: Dotted name: file here that uses it, what for, version that was read, and the first 8 digits of
#: the SHA-256 of the source.
PRIVATE_NAMES = {
    "mmengine.hooks.CheckpointHook._save_checkpoint_with_step": (
        "engine/resume/checkpoint_hook.py",
        "overridden: it removes an old checkpoint before it writes the new one",
        *(_MMENGINE, "cdbc1b54"),
    ),
    "mmengine.hooks.CheckpointHook._save_best_checkpoint": (
        "engine/resume/checkpoint_hook.py",
        "overridden: it removes the best checkpoint before it writes the better one",
        *(_MMENGINE, "8e1e4772"),
    ),
    "mmengine.dataset.BaseDataset._load_metainfo": (
        "datasets/lvis.py, classification/datasets",
        "its result _metainfo, of which metainfo is a copy, is set to the file's categories",
        *(_MMENGINE, "d170218d"),
    ),
    "mmengine.dataset.BaseDataset.full_init": (
        "datasets/lvis.py",
        "its attribute _fully_initialized tells whether the annotations are to be checked yet",
        *(_MMENGINE, "468830c9"),
    ),
    "mmdet.datasets.transforms.LoadAnnotations._load_masks": (
        "datasets/polygon_masks.py",
        "overridden: it draws all polygons",
        *(_MMDET, "bbf91294"),
    ),
    "mmdet.datasets.transforms.LoadAnnotations._process_masks": (
        "datasets/polygon_masks.py",
        "called: it drops polygons of fewer than three points, and ignores instances without any",
        *(_MMDET, "e8d6b66e"),
    ),
    "mmdet.visualization.DetLocalVisualizer._draw_instances": (
        "engine/visualizer.py",
        "overridden: it takes bitmaps, not masks as RLE",
        *(_MMDET, "31d4ad77"),
    ),
    "mmdet.models.CascadeRoIHead._mask_forward": (*_MASK_LOGITS, "ac09acc9"),
    "mmdet.models.HybridTaskCascadeRoIHead._mask_forward": (*_MASK_LOGITS, "036ccefa"),
    "mmdet.models.StandardRoIHead._mask_forward": (
        "heads/instance_tta.py",
        "called for the mask logits; the public methods paste them into images",
        *(_MMDET, "6cf4cbba"),
    ),
    "mmdet.models.StandardRoIHead._bbox_forward": (*_FEATURES, "902c3b63"),
    "mmdet.models.CascadeRoIHead._bbox_forward": (*_FEATURES, "ecd81835"),
    "mmdet.models.HybridTaskCascadeRoIHead._bbox_forward": (*_FEATURES, "3c92623e"),
    "mmdet.models.YOLOXHead._get_targets_single": (
        "heads/image_level_labels.py",
        "overridden to note how many points of each image are assigned",
        *(_MMDET, "dcc9abcd"),
    ),
    "mmdet.models.BBoxHead._predict_by_feat_single": (
        "heads/box_head.py",
        "overridden to replace NMS; without a test_cfg it returns the boxes and scores before NMS",
        *(_MMDET, "f5ed2e45"),
    ),
    "mmdet.models.FCNMaskHead._predict_by_feat_single": (
        "heads/mask_head.py",
        "overridden to select the masks of the labels and to paste them as RLE",
        *(_MMDET, "9fcfec68"),
    ),
    "mmdet.evaluation.CocoMetric.__init__": (
        "engine/stock_metrics.py",
        "its attribute _coco_api holds the categories of the file in their order",
        *(_MMDET, "3bd6a32f"),
    ),
    "mmdet.evaluation.LVISMetric.__init__": (
        "engine/stock_metrics.py",
        "its attribute _lvis_api holds the categories of the file in their order",
        *(_MMDET, "0ed11419"),
    ),
    "torch.nn.Conv2d._conv_forward": (
        "heads/mask_head.py",
        "overridden: it gives selectable logits; NormedConv2d calls it with its normed weight",
        *("torch 2.13.0", "0fc4c367"),
    ),
    "mmdet.models.ResNet._make_stem_layer": (
        "classification/backbones.py",
        "overridden: images of 32 pixels need another stem",
        *(_MMDET, "387566aa"),
    ),
}

PACKAGE = Path(mmdet_eql.__file__).parent
#: Set by ``_load_metainfo`` and ``full_init``, which are listed.
ATTRIBUTES = {"_metainfo", "_fully_initialized"}
LISTED = {name.rpartition(".")[2] for name in PRIVATE_NAMES} | ATTRIBUTES


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def bound_names(tree: ast.AST) -> set[str]:
    """What a file defines: functions, classes, variables and attributes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return names


def test_all_that_are_used_are_listed():
    trees = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    ours = set().union(*map(bound_names, trees.values()))
    for path, tree in trees.items():
        for node in ast.walk(tree):
            used = [node.attr] if isinstance(node, ast.Attribute) else []
            if isinstance(node, ast.ImportFrom) and not node.module.startswith("mmdet_eql"):
                used = [alias.name for alias in node.names]
            for name in filter(is_private, used):
                assert name in ours | LISTED, f"{path}:{node.lineno}: {name}"


def test_all_that_are_overridden_are_listed():
    for module in pkgutil.walk_packages(mmdet_eql.__path__, "mmdet_eql."):
        for cls in vars(importlib.import_module(module.name)).values():
            if not inspect.isclass(cls) or cls.__module__ != module.name:
                continue
            ours = [base for base in cls.__mro__ if base.__module__.startswith("mmdet_eql")]
            of_others = set(cls.__mro__) - set(ours)
            for base in ours:  # a mixin overrides what the class inherits after it
                for name in filter(is_private, vars(base)):
                    method = inspect.isfunction(vars(base)[name])
                    if method and any(name in vars(other) for other in of_others):
                        assert name in LISTED, f"{base.__name__}.{name} in {cls.__name__}"


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_they_are_what_was_read(name):
    used_in, _, package, known = PRIVATE_NAMES[name]
    distribution, version = package.split()
    try:
        installed = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{distribution} is not installed")
    module, cls, method = name.rsplit(".", 2)
    source = inspect.getsource(getattr(getattr(importlib.import_module(module), cls), method))
    digest = hashlib.sha256(source.encode()).hexdigest()[:8]
    assert digest == known, (
        f"{name} of {distribution} {installed} is not that of {version}: read it and {used_in} "
        f"again, then note the version and {digest}."
    )
