"""Predictions in any image, by our tool and by MMDetection's own inferencers."""

import shutil

import cv2
import mmdet
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.utils import digit_version

from mmdet_eql.analysis.drawing import draw_images, find_images
from mmdet_eql.engine import load_checkpoint_file
from mmdet_eql.engine.class_frequency_hook import remove_counts
from mmdet_eql.engine.launch import build_runner
from mmdet_eql.frequency import GROUP_COLOURS
from mmdet_eql.utils.errors import UserError
from tests.conftest import TINY, build_dataset


@pytest.fixture
def trained(tiny_config, tmp_path):
    """The config file and the checkpoint of a run of one iteration."""
    cfg = tiny_config(max_iters=1)
    cfg.launcher = "none"
    cfg.train_cfg.val_begin = 100  # none
    cfg.default_hooks.checkpoint.interval = 1
    build_runner(cfg).train()
    cfg.dump(str(tmp_path / "config.py"))
    return tmp_path / "config.py", tmp_path / "work_dir" / "iter_1.pth"


def test_images_and_folders_are_found(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(UserError, match="folder: holds no image"):
        find_images([folder])
    for name in ("b.png", "a.JPG", "notes.txt"):
        (folder / name).touch()
    assert find_images([folder / "b.png", folder]) == [
        folder / name for name in ("b.png", "a.JPG", "b.png")
    ]
    with pytest.raises(UserError, match="gone: no such image or folder"):
        find_images([tmp_path / "gone"])


def test_demo_and_inferencers(trained, minilvis, tmp_path, call_tool):
    config, checkpoint = trained
    meta = load_checkpoint_file(str(checkpoint))["meta"]["dataset_meta"]
    dataset = build_dataset(minilvis)
    frequency = dataset.class_frequency
    assert meta["image_count"] == frequency.image_count.tolist()
    colours = [GROUP_COLOURS[group] for group in frequency.group]
    assert ["#" + bytes(colour).hex().upper() for colour in meta["palette"]] == colours
    # As the dataset's own when a run is resumed.
    remove_counts(meta)
    assert meta == dataset.metainfo

    folder = tmp_path / "images"
    folder.mkdir()
    for source in sorted((minilvis / "val").iterdir())[:2]:
        shutil.copy(source, folder)
    image = next(folder.iterdir())
    options = ["--config", config, "--checkpoint", checkpoint, "--score-thr", 0]
    result = call_tool("demo.py", image, folder, *options, "--max-instances", 8, check=True)
    pictures = [tmp_path / line for line in result.stdout.splitlines() if line.endswith(".png")]
    assert sorted(pictures) == sorted((tmp_path / "work_dirs" / "demo").iterdir())
    # The image that is given twice has two pictures.
    assert pictures[0].stem == image.stem
    assert len(pictures) == 3
    assert cv2.imread(str(pictures[0])).shape[0] > 300

    if digit_version(mmdet.__version__) < digit_version("3.4"):
        cfg = Config.fromfile(config)
        cfg.test_dataloader.dataset.pipeline[0].type = "LoadImageFromFile"
        cfg.dump(str(config))
    with DefaultScope.overwrite_default_scope(None):
        inferencer = DetInferencer(str(config), str(checkpoint), device="cpu", show_progress=False)
        found = inferencer(str(image), pred_score_thr=0.0, return_vis=True)
        detector = init_detector(str(config), str(checkpoint), device="cpu")
        sample = inference_detector(detector, str(image))
    (predictions,) = found["predictions"]
    assert len(predictions["labels"]) > 0
    assert max(predictions["labels"]) < TINY.num_categories
    np.testing.assert_allclose(predictions["scores"], sample.pred_instances.scores, rtol=1e-5)
    assert inferencer.visualizer.dataset_meta["classes"] == dataset.metainfo["classes"]
    assert inferencer.visualizer.dataset_meta["image_count"] == frequency.image_count.tolist()
    # It draws in the colours of the groups.
    (picture,) = found["visualization"]
    rgb = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in set(colours)])
    near = np.abs(picture[:, :, None].astype(int) - rgb).max(axis=3).min(axis=2) < 10
    assert near.any()


def test_what_is_not_as_it_should_be(trained, minilvis, tmp_path):
    config, path = trained
    config = Config.fromfile(config)
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"\xff\xd8 cut off")
    with pytest.raises(UserError, match=r"damaged\.jpg: the image is corrupted"):
        draw_images([damaged], config, path, tmp_path / "out")

    # Without counts, everything is grey.
    image = next((minilvis / "val").iterdir())
    checkpoint = torch.load(path, weights_only=False)
    del checkpoint["meta"]["dataset_meta"]["image_count"]
    torch.save(checkpoint, path)
    (drawn,) = draw_images([image], config, path, tmp_path / "grey", score_thr=0)
    picture = cv2.imread(str(drawn)).reshape(-1, 3)
    assert (np.abs(picture.astype(int) - 0xBB).max(axis=1) < 3).any()

    del checkpoint["meta"]["dataset_meta"]
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match="names no categories"):
        draw_images([image], config, path, tmp_path / "out")
