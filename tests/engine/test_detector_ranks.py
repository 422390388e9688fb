"""A Mask R-CNN on two gloo ranks has the loss curve of one rank with the same images.

What differs by design is left out: here the proposals are the first of each kind instead of random
ones, batch norm keeps its statistics, and the mask loss, which MMDetection averages over the
foreground of each rank alone, is switched off. The other losses are divided by the number of
sampled proposals, which is the same for every image.
"""

import json

import numpy as np
import pytest
import torch
from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.registry import TASK_UTILS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmdet_eql.engine.launch import build_runner
from tests.conftest import CONFIGS, start_ranks, tiny_options

STEPS = 3
METHODS = ("eql", "eqlv2", "seql")


@TASK_UTILS.register_module()
class FirstSampler(RandomSampler):
    """Takes the first candidates, where mmdet's takes random ones."""

    def random_choice(self, gallery, num):
        return gallery[:num]


@HOOKS.register_module()
class CurveRecorder(Hook):
    """Writes the losses and the weights of this rank at the end."""

    def before_run(self, runner):
        self.curve = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        names = ("loss", "loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox")
        self.curve.append([float(outputs[name]) for name in names])

    def after_run(self, runner):
        model = getattr(runner.model, "module", runner.model)
        weights = {name: p.detach() for name, p in model.named_parameters()}
        torch.save(dict(curve=self.curve, weights=weights), f"{runner.work_dir}/{runner.rank}.pt")


def make_config(data_root, work_dir, method, ranks) -> Config:
    cfg = Config.fromfile(CONFIGS / "minilvis" / f"mask-rcnn_r18_fpn_{method}_1xb4_minilvis.py")
    cfg.merge_from_dict(tiny_options(data_root, STEPS, method))
    cfg.work_dir = f"{work_dir}/{method}_{ranks}"
    cfg.launcher = "none" if ranks == 1 else "pytorch"
    cfg.train_dataloader.batch_size = 4 // ranks
    cfg.train_dataloader.sampler.shuffle = False
    cfg.train_dataloader.dataset.pipeline[3].prob = 0.0
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint.update(interval=-1, save_last=False)
    cfg.model.backbone.norm_eval = True
    cfg.model.roi_head.mask_head.loss_mask.loss_weight = 0.0
    for stage in (cfg.model.train_cfg.rpn, cfg.model.train_cfg.rcnn):
        stage.sampler.type = "FirstSampler"
    if method == "seql":
        # With gamma below 1 a rank draws for its own samples what they ignore.
        cfg.model.roi_head.bbox_head.loss_cls.update(lambda_=0.1, gamma=1.0)
    cfg.custom_hooks.append(dict(type="CurveRecorder"))
    return cfg


def make_half_empty_config(data_root, work_dir, ranks) -> Config:
    """Every second image, and so all that rank 1 sees, has no annotation."""
    annotations = json.loads((data_root / "annotations" / "minilvis_train.json").read_text())
    empty = {image["id"] for image in annotations["images"][1::2]}
    annotations["annotations"] = [
        a for a in annotations["annotations"] if a["image_id"] not in empty
    ]
    path = work_dir / "half_empty.json"
    if not path.exists():
        path.write_text(json.dumps(annotations))
    cfg = make_config(data_root, work_dir, "eql", ranks)
    cfg.train_dataloader.dataset.ann_file = str(path)
    cfg.train_dataloader.dataset.filter_cfg = dict(filter_empty_gt=False)
    cfg.model.roi_head.mask_head.loss_mask.loss_weight = 1.0
    cfg.work_dir = f"{work_dir}/half_empty"
    return cfg


def train_rank(rank, data_root, work_dir):
    Config.pretty_text = ""  # formatting a config for the log takes longer than training on it
    for method in METHODS:
        build_runner(make_config(data_root, work_dir, method, ranks=2)).train()
    build_runner(make_half_empty_config(data_root, work_dir, ranks=2)).train()


@pytest.fixture(scope="module")
def two_ranks(minilvis, tmp_path_factory):
    """The folder of the runs of both ranks."""
    work_dir = tmp_path_factory.mktemp("two_ranks")
    make_half_empty_config(minilvis, work_dir, ranks=2)
    start_ranks(train_rank, minilvis, work_dir)
    return work_dir


def of_ranks(folder):
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_curve_is_that_of_one_rank(two_ranks, minilvis, tmp_path, method):
    build_runner(make_config(minilvis, tmp_path, method, ranks=1)).train()
    whole = torch.load(tmp_path / f"{method}_1" / "0.pt")
    runs = of_ranks(two_ranks / f"{method}_2")
    curve = np.mean([run["curve"] for run in runs], axis=0)
    np.testing.assert_allclose(curve, whole["curve"], rtol=1e-4)
    assert curve[-1, 0] != pytest.approx(curve[0, 0], rel=1e-2)  # it does train
    for name, weight in whole["weights"].items():
        assert torch.equal(runs[0]["weights"][name], runs[1]["weights"][name])
        torch.testing.assert_close(runs[0]["weights"][name], weight, rtol=1e-3, atol=1e-5)


def test_a_rank_without_foreground_trains_on(two_ranks):
    # That it came to an end says that nobody waited for anybody.
    runs = of_ranks(two_ranks / "half_empty")
    losses = np.array([run["curve"] for run in runs])
    assert losses.shape[1] == STEPS
    assert np.isfinite(losses).all()
    assert (losses[0, :, 4] > 0).all()
    assert (losses[1, :, 4] == 0).all()  # loss_bbox: no foreground
    for name, weight in runs[0]["weights"].items():
        assert torch.equal(weight, runs[1]["weights"][name]), name
