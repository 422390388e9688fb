"""Every config builds, and says what its name says."""

import re
from pathlib import Path

import pytest
import torch
from mmdet.registry import DATA_SAMPLERS, DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet_eql.losses import EqualizationLoss
from tests.conftest import CONFIGS

# Image classification has tests of its own, tests/classification/test_configs.py.
EXPERIMENTS = sorted(
    path
    for path in CONFIGS.rglob("*.py")
    if not {"_base_", "classification"} & set(path.relative_to(CONFIGS).parts)
)
LOSSES = {
    "softmax": "CrossEntropyLoss",
    "sigmoid": "EqualizationLoss",
    "eql": "EqualizationLoss",
    "eql-image-labels": "EqualizationLoss",
    "eql-rfs": "EqualizationLoss",
    "eql-class-aware": "EqualizationLoss",
    "eqlv2": "EqualizationLossV2",
    "seql": "SoftmaxEqualizationLoss",
    "focal": "SigmoidFocalLoss",
    "federated": "FederatedLoss",
    "cb-sigmoid": "ClassBalancedSigmoidLoss",
    "cb-softmax": "ClassBalancedSoftmaxLoss",
    "bags": "BalancedGroupSoftmaxLoss",
    "logit-adjustment": "LogitAdjustedSoftmaxLoss",
    "seesaw": "SeesawLoss",
}
ON_SIGMOIDS = {
    *("sigmoid", "eql", "eql-image-labels", "eql-rfs", "eql-class-aware"),
    *("eqlv2", "focal", "federated", "cb-sigmoid"),
}
SAMPLERS = {"eql-rfs": "RepeatFactorSampler", "eql-class-aware": "CategoryAwareSampler"}
NUM_CLASSES = {"minilvis": 200, "lvis-v0.5": 1230, "lvis-v1": 1203}


@pytest.fixture(params=EXPERIMENTS, ids=lambda path: path.stem)
def experiment(request) -> tuple[Path, Config]:
    init_default_scope("mmdet")
    return request.param, Config.fromfile(request.param)


def test_there_are_experiments():
    assert {path.parent.name for path in EXPERIMENTS} >= {"minilvis", "baselines", "eql"}


def method_of(path: Path) -> str:
    """``eql`` of ``mask-rcnn_r50_fpn_eql_8xb2-1x_lvis-v1``; ``softmax`` where none is named."""
    return path.stem.split("_fpn_")[1].split("_")[0] if path.stem.count("_") > 4 else "softmax"


def stages(heads) -> list:
    return list(heads) if isinstance(heads, torch.nn.ModuleList) else [heads]


def test_model_and_parts_build(experiment):
    path, cfg = experiment
    model = MODELS.build(cfg.model)  # pretrained weights are fetched later, by init_weights()
    num_classes = NUM_CLASSES[path.stem.rpartition("_")[2]]
    method = method_of(path)
    for head in stages(model.roi_head.mask_head):
        assert head.num_classes == num_classes
    for head in stages(model.roi_head.bbox_head):
        assert head.num_classes == num_classes
        assert type(head.loss_cls).__name__ == LOSSES[method]
        if method in ON_SIGMOIDS:
            # A probability of 0.5 at the start would make the first steps diverge.
            head.fc_cls.init_weights()
            assert head.fc_cls.bias.sigmoid().max() < 0.01
        if isinstance(head.loss_cls, EqualizationLoss):
            assert head.fc_cls.out_features == num_classes
            assert (head.loss_cls.lambda_ > 0) == (method != "sigmoid")
            assert head.loss_cls.image_level_labels == (method == "eql-image-labels")
    assert model.test_cfg.rcnn.score_thr <= 1e-3


def test_registered_types(experiment):
    path, cfg = experiment
    for name in ("train", "val", "test"):
        dataset = cfg[f"{name}_dataloader"].dataset
        assert DATASETS.get(dataset.type) is not None
        assert all(TRANSFORMS.get(step.type) is not None for step in dataset.pipeline)
    default = "InfiniteSampler" if "max_iters" in cfg.train_cfg else "DefaultSampler"
    sampler = cfg.train_dataloader.sampler
    assert DATA_SAMPLERS.get(sampler.type) is not None
    assert sampler.type == SAMPLERS.get(method_of(path), default)
    # The loop and the sampler agree on whether there are epochs.
    assert sampler.get("infinite", default == "InfiniteSampler") == ("max_iters" in cfg.train_cfg)
    for name in ("val", "test"):
        evaluator = cfg[f"{name}_evaluator"]
        assert METRICS.get(evaluator.type) is not None
        dataset = cfg[f"{name}_dataloader"].dataset
        assert evaluator.ann_file == dataset.data_root + dataset.ann_file
    assert [HOOKS.get(hook.type).__name__ for hook in cfg.custom_hooks] == [
        "ClassFrequencyHook",
        "ResumeSamplerHook",
        "ResumeRandomnessHook",
        "InterruptionHook",
        "FiniteLossHook",
    ]


def test_schedule_fits_the_name(experiment):
    path, cfg = experiment
    gpus, per_gpu = map(int, re.search(r"_(\d+)xb(\d+)[-_]", path.stem).groups())
    assert cfg.train_dataloader.batch_size == per_gpu
    assert cfg.auto_scale_lr.base_batch_size == gpus * per_gpu
    assert not cfg.auto_scale_lr.enable
    length = re.search(r"-(1x|25e)_", path.stem)
    if length:
        assert cfg.train_cfg.max_epochs == {"1x": 12, "25e": 25}[length.group(1)]
        # The linear rule: 0.02 for 16 images.
        assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.02 * gpus * per_gpu / 16)
    assert cfg.train_cfg.val_interval == (
        cfg.train_cfg.get("max_epochs") or cfg.train_cfg.get("max_iters")
    )


def test_data_root_follows_the_environment(monkeypatch):
    monkeypatch.setenv("MMDET_EQL_DATA", "/elsewhere")
    for path in EXPERIMENTS:
        cfg = Config.fromfile(path)
        assert cfg.train_dataloader.dataset.data_root.startswith("/elsewhere/")
        assert cfg.test_evaluator.ann_file.startswith("/elsewhere/")
