"""Predictions on MiniLVIS, judged by lvis-api: by a real model, and by a good one."""

import json

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from mmengine.runner import Runner

from mmdet_eql.evaluation.lvis_metric import LVISFastMetric
from tests.evaluation.federated_sets import judge


def figures_of_judge(ann_file, prefix) -> dict:
    figures = {}
    for iou_type in ("bbox", "segm"):
        results = judge(ann_file, f"{prefix}.{iou_type}.json", iou_type).results
        figures.update({f"{iou_type}_{key}": value for key, value in results.items()})
    return figures


def assert_same_figures(ours: dict, prefix, ann_file) -> dict:
    theirs = figures_of_judge(ann_file, prefix)
    ours = {key.removeprefix("lvis/"): value for key, value in ours.items()}
    compared = {key: value for key, value in theirs.items() if key in ours}
    assert len(compared) == 18
    for key, value in compared.items():
        assert ours[key] == pytest.approx(value, abs=1e-6), key
    return compared


def test_predictions_of_a_trained_model(tiny_config, minilvis, tmp_path):
    cfg = tiny_config(max_iters=6)
    prefix = str(tmp_path / "results")
    cfg.test_evaluator.outfile_prefix = prefix
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert_same_figures(runner.test(), prefix, minilvis / "annotations" / "minilvis_val.json")


def test_predictions_that_are_nearly_right(minilvis, tmp_path):
    """Ground truth, moved a little, with wrong categories and false alarms among it."""
    ann_file = minilvis / "annotations" / "minilvis_val.json"
    data = json.loads(ann_file.read_text())
    rng = np.random.default_rng(0)
    prefix = str(tmp_path / "results")
    metric = LVISFastMetric(str(ann_file), ["bbox", "segm"], outfile_prefix=prefix)
    for image in data["images"]:
        annotations = [a for a in data["annotations"] if a["image_id"] == image["id"]]
        boxes, masks, labels = [], [], []
        for annotation in annotations:
            for _ in range(rng.integers(1, 4)):
                rle = mask_utils.merge(
                    mask_utils.frPyObjects(
                        annotation["segmentation"], image["height"], image["width"]
                    )
                )
                shift = rng.integers(-3, 4, size=2)
                masks.append(np.roll(mask_utils.decode(rle), shift, axis=(0, 1)).astype(bool))
                x, y, width, height = annotation["bbox"]
                boxes.append(np.array([x, y, x + width, y + height]) + rng.normal(0, 2, 4))
                right = rng.random() < 0.7
                labels.append(annotation["category_id"] - 1 if right else rng.integers(0, 12))
        count = len(boxes)
        pred = {
            "bboxes": torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32),
            # Few values, so that there are ties.
            "scores": torch.tensor(rng.integers(1, 20, count) / 20, dtype=torch.float32),
            "labels": torch.tensor(np.array(labels, dtype=np.int64)),
            "masks": torch.tensor(
                np.array(masks, dtype=bool).reshape(count, image["height"], image["width"])
            ),
        }
        metric.process(None, [{"img_id": image["id"], "pred_instances": pred}])
    compared = assert_same_figures(metric.evaluate(len(data["images"])), prefix, ann_file)
    assert compared["bbox_AP"] > 0.1
    assert compared["segm_AP50"] > compared["segm_AP75"] > 0
