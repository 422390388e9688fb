"""Tiny MiniLVIS crops, and configs that train on them in seconds."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmdet_eql.minilvis.crops import CropsConfig, make_crops
from tests.conftest import CONFIGS

TINY = CropsConfig(num_classes=6, train_per_class=24, val_per_class=10, crop_size=16)


@pytest.fixture(scope="session")
def crops(tmp_path_factory) -> Path:
    """A folder with crops of 16 px: 6 classes, 24 training and 10 validation images of each."""
    folder = tmp_path_factory.mktemp("crops")
    make_crops(folder / "minilvis_crops.npz", TINY)
    return folder


def crops_config(method: str) -> Path:
    """The config file of a method on MiniLVIS crops, or else on CIFAR-100-LT."""
    folder = CONFIGS / "classification"
    of_crops = folder.glob(f"resnet14_{method}_*_minilvis-crops.py")
    return next(of_crops, None) or next(folder.glob(f"resnet32_{method}_*_cifar100-lt.py"))


def tiny_options(crops: Path, epochs: int = 2) -> dict:
    """What turns such a config into a run of a second on the tiny set."""
    options = {
        "train_cfg.max_epochs": epochs,
        "train_cfg.val_interval": epochs,
        "default_hooks.checkpoint.interval": 1,
        "default_hooks.logger.interval": 1,
        "train_dataloader.batch_size": 16,
        "train_dataloader.dataset.imbalance_factor": 8,
        "model.backbone.depth": 8,
        "model.head.num_classes": TINY.num_classes,
        "randomness.seed": 3,
    }
    for loader in ("train", "val", "test"):
        options |= {
            f"{loader}_dataloader.num_workers": 0,
            f"{loader}_dataloader.persistent_workers": False,
            f"{loader}_dataloader.dataset.type": "MiniLVISCrops",
            f"{loader}_dataloader.dataset.data_root": str(crops),
            f"{loader}_dataloader.dataset.ann_file": "minilvis_crops.npz",
            f"{loader}_dataloader.dataset.split": "train" if loader == "train" else "val",
        }
    return options


@pytest.fixture
def tiny_config(crops, tmp_path):
    """Make the config of a run of a second: ``tiny_config("seql", epochs=2)``."""

    def make(method: str = "softmax", epochs: int = 2) -> Config:
        cfg = Config.fromfile(crops_config(method))
        cfg.merge_from_dict(tiny_options(crops, epochs))
        cfg.work_dir = str(tmp_path / "work_dir")
        return cfg

    return make
