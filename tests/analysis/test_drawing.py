"""Predictions drawn beside annotations."""

from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.registry import init_default_scope
from mmengine.runner import save_checkpoint
from mmengine.structures import InstanceData

from mmdet_eql.analysis import drawing
from mmdet_eql.analysis.drawing import (
    annotated_instances,
    best_instances,
    choose_images,
    detect,
    draw_images,
    draw_predictions,
    load_detector,
)
from mmdet_eql.frequency import class_frequency_of
from mmdet_eql.utils.errors import UserError


@pytest.fixture
def parts(tiny_config, tmp_path):
    """Config, checkpoint of an untrained model, class frequency, and validation set."""
    cfg = tiny_config()
    init_default_scope("mmdet")
    torch.manual_seed(0)
    checkpoint = tmp_path / "model.pth"
    save_checkpoint({"state_dict": MODELS.build(cfg.model).state_dict()}, str(checkpoint))
    frequency = class_frequency_of(DATASETS.build(cfg.train_dataloader.dataset))
    return cfg, checkpoint, frequency, DATASETS.build(cfg.val_dataloader.dataset)


def test_pictures_of_two_models(parts, tmp_path):
    cfg, checkpoint, frequency, _ = parts
    models = {"baseline": (cfg, checkpoint), "EQL": (cfg, checkpoint)}
    paths = draw_predictions(models, frequency, tmp_path / "pictures", num_images=2, score_thr=0)
    assert sorted(paths) == sorted((tmp_path / "pictures").iterdir())
    assert len(paths) == 2
    for path in paths:
        image = cv2.imread(str(path))
        # Three panels side by side, the last two of them alike.
        assert image.shape[1] > 2.5 * image.shape[0]

    # Nothing is certain to this untrained model.
    empty = draw_predictions(models, frequency, tmp_path / "empty", num_images=1, score_thr=1.0)
    drawn, blank = cv2.imread(str(paths[0])), cv2.imread(str(empty[0]))
    third = drawn.shape[1] // 3
    changed = np.abs(drawn.astype(int) - blank).max(axis=2) > 30
    assert changed[60:-60, third + 30 :].any()
    assert not changed[60:-60, : third - 30].any()


def test_predictions_are_in_pixels_of_the_image(parts):
    cfg, checkpoint, _, dataset = parts
    found = detect(load_detector(cfg, checkpoint), dataset, 0)
    assert len(found.labels) == len(found.bboxes) == len(found.scores) == len(found.masks) > 0
    info = dataset.get_data_info(0)
    assert found.masks.shape[1:] == (info["height"], info["width"])
    assert found.masks.dtype == torch.bool
    best = best_instances(found, 5, score_thr=float(np.sort(found.scores)[-3]))
    assert 1 <= len(best.labels) <= 5
    assert (np.diff(best.scores) <= 0).all()
    assert best.scores[0] == found.scores.max()


def test_masks_as_rle_are_drawn_alike(parts):
    cfg, checkpoint, _, dataset = parts
    bitmaps = detect(load_detector(cfg, checkpoint), dataset, 0).masks
    cfg.model.roi_head.mask_head.update(type="SelectiveFCNMaskHead", masks_as_rle=True)
    found = detect(load_detector(cfg, checkpoint), dataset, 0)
    assert found.masks.dtype == torch.bool
    assert found.masks.any()
    assert torch.equal(found.masks, bitmaps)


def test_the_best_predictions_in_order():
    scores = torch.tensor([0.1, 0.9, 0.5, 0.7])
    found = InstanceData(
        bboxes=torch.arange(16.0).reshape(4, 4), labels=torch.arange(4), scores=scores
    )
    assert best_instances(found, 1, 0).bboxes.tolist() == [[4, 5, 6, 7]]
    found.masks = torch.eye(4, dtype=torch.bool)[:, None]
    best = best_instances(found, 3, 0.6)
    assert best.labels.tolist() == [1, 3]
    assert best.masks[:, 0].tolist() == found.masks[[1, 3], 0].tolist()


def test_another_models_checkpoint_is_refused(parts, tmp_path):
    cfg, checkpoint, frequency, _ = parts
    cfg.model.roi_head.bbox_head.num_classes += 1
    with pytest.raises(UserError, match=r"model\.pth: does not fit .*fc_cls\.bias of 12 instead"):
        draw_predictions({"a": (cfg, checkpoint)}, frequency, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_are_those_of_the_checkpoint(parts, tmp_path, monkeypatch):
    """In another order than the file's, whose annotations follow them."""
    cfg, checkpoint, frequency, dataset = parts
    names = dataset.metainfo["classes"]
    saved = torch.load(checkpoint)
    saved["meta"] = {"dataset_meta": {"classes": names[::-1]}}
    torch.save(saved, checkpoint)
    drawn = []
    monkeypatch.setattr(drawing, "draw_panels", lambda *args: drawn.append(args))
    draw_predictions({"a": (cfg, checkpoint)}, frequency, tmp_path, num_images=1)
    draw_images([Path(dataset.get_data_info(0)["img_path"])], cfg, checkpoint, tmp_path)
    (_, panels, shown, groups, _), (_, _, shown_by_demo, *_) = drawn
    assert shown == shown_by_demo == names[::-1]
    assert groups == frequency.group[::-1].tolist()
    (index,) = choose_images(dataset, frequency.group, 1)
    expected = [names[one["bbox_label"]] for one in dataset.get_data_info(index)["instances"]]
    assert [shown[label] for label in panels["annotated"].labels.tolist()] == expected


def test_images_with_many_kinds_come_first(parts):
    *_, dataset = parts
    groups = ["rcf"[label % 3] for label in range(12)]
    chosen = choose_images(dataset, groups, 5)
    assert len(set(chosen)) == 5
    assert len(choose_images(dataset, groups, 1000)) == len(dataset)

    def kinds(index: int) -> tuple[int, int]:
        labels = {one["bbox_label"] for one in dataset.get_data_info(index)["instances"]}
        return len({groups[label] for label in labels}), len(labels)

    others = set(range(len(dataset))) - set(chosen)
    assert min(map(kinds, chosen)) >= max(map(kinds, others))


def test_annotated_masks_of_all_kinds():
    polygon = [[2.0, 2.0, 8.0, 2.0, 8.0, 6.0, 2.0, 6.0]]
    bitmap = np.zeros((10, 12), dtype=np.uint8, order="F")
    bitmap[2:6, 2:8] = 1
    compressed = mask_utils.encode(bitmap)
    compressed["counts"] = compressed["counts"].decode()  # as JSON has it
    counts = np.diff(np.flatnonzero(np.diff(np.pad(bitmap.ravel(order="F"), 1, constant_values=2))))
    runs = {"size": [10, 12], "counts": counts.tolist()}
    masks = [polygon, compressed, runs, None]
    instances = [
        {"bbox": [2, 2, 8, 6], "bbox_label": 3, "ignore_flag": 0, "mask": mask} for mask in masks
    ]
    found = annotated_instances({"height": 10, "width": 12, "instances": instances})
    assert found.masks.shape == (4, 10, 12)
    for mask in found.masks[:3]:
        assert (mask.numpy() == bitmap.astype(bool)).all()
    assert not found.masks[3].any()
    assert "scores" not in found
    assert found.labels.tolist() == [3] * 4

    nothing = annotated_instances({"height": 10, "width": 12, "instances": []})
    assert nothing.bboxes.shape == (0, 4)
    assert nothing.masks.shape == (0, 10, 12)
