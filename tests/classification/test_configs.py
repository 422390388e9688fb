"""Every classification config builds, and says what its name says."""

import re
from pathlib import Path

import pytest
import torch
from mmdet.registry import DATA_SAMPLERS, DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS
from mmengine.config import Config
from mmengine.registry import init_default_scope

import mmdet_eql.classification  # noqa: F401
from mmdet_eql.classification.datasets.base import LabelledImages
from tests.config_checks import read
from tests.conftest import CONFIGS

EXPERIMENTS = sorted((CONFIGS / "classification").glob("*.py"))
LOSSES = {
    "seql": "SoftmaxEqualizationLoss",
    "cb-softmax": "ClassBalancedSoftmaxLoss",
    "focal": "SigmoidFocalLoss",
    "balanced-softmax": "BalancedSoftmaxLoss",
    "logit-adjustment": "LogitAdjustedSoftmaxLoss",
    "ldam-drw": "LDAMLoss",
}
CLASSIFIERS = {
    "focal": "PriorLinear",
    "cosine": "CosineClassifier",
    "ldam-drw": "CosineClassifier",
    "tau-norm": "TauNormalizedClassifier",
    "lws": "ScaledClassifier",
}
SAMPLERS = {
    "class-aware": "CategoryAwareSampler",
    "progressively-balanced": "MixedSampler",
    "crt": "CategoryAwareSampler",
    "lws": "CategoryAwareSampler",
}
NUM_CLASSES = {
    "minilvis-crops": 100,
    "cifar10-lt": 10,
    "cifar100-lt": 100,
    "imagenet-lt": 1000,
    "places-lt": 365,
}
BLOCKS = {"resnet10": 4, "resnet14": 6, "resnet32": 15, "resnet50": 16}


@pytest.fixture(params=EXPERIMENTS, ids=lambda path: path.stem)
def experiment(request) -> tuple[Path, Config]:
    init_default_scope("mmdet")
    return request.param, read(request.param)


def test_the_model_is_what_the_name_says(experiment):
    path, cfg = experiment
    network, method, _, data = path.stem.split("_")
    model = MODELS.build(cfg.model)
    model.init_weights()
    stages = [getattr(model.backbone, name) for name in model.backbone.res_layers]
    assert sum(len(stage) for stage in stages) == BLOCKS[network]
    head = model.head
    assert head.num_classes == NUM_CLASSES[data]
    assert type(head.loss_cls).__name__ == LOSSES.get(method, "CrossEntropyLoss")
    assert type(head.classifier).__name__ == CLASSIFIERS.get(method, "LinearClassifier")
    assert model.freeze_backbone == (method in ("crt", "lws"))
    side = 224 if network in ("resnet10", "resnet50") else 32
    assert model.eval()(torch.zeros(1, 3, side, side)).shape == (1, NUM_CLASSES[data])
    # Trained from scratch: batch normalisation must learn its statistics.
    assert model.train().backbone.norm1.training == (not model.freeze_backbone)


def test_the_rest_is_what_the_name_says(experiment):
    path, cfg = experiment
    _, method, schedule, data = path.stem.split("_")
    gpus, per_gpu, epochs = map(int, re.fullmatch(r"(\d+)xb(\d+)-(\d+)e", schedule).groups())
    assert cfg.train_dataloader.batch_size == per_gpu
    assert cfg.auto_scale_lr.base_batch_size == gpus * per_gpu
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.train_cfg.val_interval <= epochs
    assert cfg.param_scheduler[-1].get("end", epochs) in (epochs, float("inf"))
    assert cfg.train_dataloader.sampler.type == SAMPLERS.get(method, "DefaultSampler")
    assert DATA_SAMPLERS.get(cfg.train_dataloader.sampler.type) is not None
    for split in ("train", "val", "test"):
        dataset = cfg[f"{split}_dataloader"].dataset
        assert issubclass(DATASETS.get(dataset.type), LabelledImages)
        assert dataset.get("num_classes", NUM_CLASSES[data]) == NUM_CLASSES[data]
        assert dataset.get("test_mode", False) == (split != "train")
        assert all(TRANSFORMS.get(step.type) is not None for step in dataset.pipeline)
    for name in ("val", "test"):
        assert METRICS.get(cfg[f"{name}_evaluator"].type) is not None
    hooks = [hook.type for hook in cfg.custom_hooks]
    assert all(HOOKS.get(hook) is not None for hook in hooks)
    assert {"ClassFrequencyHook", "ResumeRandomnessHook", "TrainingCountsHook"} <= set(hooks)
    assert ("SecondStageHook" in hooks) == (method in ("crt", "lws"))


def test_methods_differ_from_softmax_in_the_method_alone(experiment):
    path, cfg = experiment
    network, _, _, data = path.stem.split("_")
    softmax = next(path.parent.glob(f"{network}_softmax_*_{data}.py"))
    base = read(softmax)
    assert cfg.val_dataloader == base.val_dataloader
    assert cfg.model.get("backbone") == base.model.backbone
    assert cfg.optim_wrapper == base.optim_wrapper
    assert cfg.train_dataloader.dataset == base.train_dataloader.dataset


def test_deferred_weights_begin_within_the_schedule():
    for path in (CONFIGS / "classification").glob("*_ldam-drw_*"):
        cfg = read(path)
        assert 0 < cfg.model.head.loss_cls.reweight_from < cfg.train_cfg.max_epochs
        assert cfg.model.head.loss_cls.scale == cfg.model.head.classifier.scale


def test_shifting_shares_end_with_the_schedule():
    for path in (CONFIGS / "classification").glob("*_progressively-balanced_*"):
        cfg = read(path)
        assert cfg.train_dataloader.sampler.num_epochs == cfg.train_cfg.max_epochs


def test_data_root_follows_the_environment(monkeypatch):
    monkeypatch.setenv("MMDET_EQL_DATA", "/elsewhere")
    # The other configs inherit the dataset of these.
    for path in (CONFIGS / "classification").glob("*_softmax_*.py"):
        cfg = Config.fromfile(path)
        for split in ("train", "val", "test"):
            assert cfg[f"{split}_dataloader"].dataset.data_root.startswith("/elsewhere")
