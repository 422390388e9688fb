"""Lists of images, folders of images, and the transforms between a file and the model."""

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import TRANSFORMS
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from mmdet_eql.classification.datasets.image_files import ImageFolderDataset, ImageListDataset
from mmdet_eql.classification.datasets.transforms import (
    ColorJitter,
    PaddedRandomCrop,
    RandomResizedCrop,
)
from mmdet_eql.utils.errors import UserError
from tests.conftest import CONFIGS


@pytest.fixture
def images(tmp_path):
    """``rose/0.png`` to ``rose/3.png`` and ``tulip/deep/0.png``, beside a text file."""
    for name in ("rose/0", "rose/1", "rose/2", "rose/3", "tulip/deep/0"):
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((30, 50, 3), 10 * int(path.stem), np.uint8))
    (tmp_path / "images" / "rose" / "notes.txt").write_text("no image")
    return tmp_path


def write_list(folder, text: str, **kwargs) -> ImageListDataset:
    (folder / "list.txt").write_text(text)
    options = dict(num_classes=3, data_root=str(folder), data_prefix=dict(img="images"))
    return ImageListDataset("list.txt", **{**options, **kwargs})


def test_a_list(images):
    dataset = write_list(images, "rose/1.png 0\ntulip/deep/0.png 2\n\nrose/2.png 0\n")
    assert dataset.class_frequency.instance_count.tolist() == [2, 0, 1]
    assert dataset.class_frequency.num_images == 3
    assert dataset.metainfo["classes"] == ("0", "1", "2")
    assert dataset.instance_labels.labels.tolist() == [0, 2, 0]
    assert dataset.get_data_info(2)["img_path"] == str(images / "images/rose/2.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rose/1.png\n", "line 1 is 'rose/1.png', not a path and a label"),
        ("rose/1.png 0\nrose/2.png -1\n", "line 2"),
        ("rose/1.png 3\n", "has the label 3, but there are 3 classes"),
        ("", "lists no images"),
        ("../secret.png 0\n", "outside the image folder"),
        ("/etc/secret.png 0\n", "outside the image folder"),
        ("rose/9.png 0\n", "no such image"),
    ],
)
def test_a_wrong_list_is_one_sentence(images, text, message):
    with pytest.raises(UserError, match=message):
        write_list(images, text)


def test_a_missing_list_and_missing_classes(images):
    with pytest.raises(UserError, match="the list of images cannot be read"):
        ImageListDataset("gone.txt", 3, data_root=str(images))
    with pytest.raises(UserError, match="set 'num_classes'"):
        write_list(images, "rose/1.png 0\n", num_classes=None)


def test_a_folder(images):
    dataset = ImageFolderDataset(str(images / "images"))
    assert dataset.metainfo["classes"] == ("rose", "tulip")
    assert dataset.class_frequency.instance_count.tolist() == [4, 1]
    chosen = ImageFolderDataset(
        str(images / "images"), metainfo=dict(classes=("tulip", "iris", "rose"))
    )
    assert chosen.class_frequency.instance_count.tolist() == [1, 0, 4]
    with pytest.raises(UserError, match=r"tulip: 'metainfo.classes' names no such class"):
        ImageFolderDataset(str(images / "images"), metainfo=dict(classes=("rose",)))
    with pytest.raises(UserError, match="cannot be read"):
        ImageFolderDataset(str(images / "gone"))
    (images / "empty").mkdir()
    with pytest.raises(UserError, match="lists no images"):
        ImageFolderDataset(str(images / "empty"))


def test_the_pipelines_of_imagenet(images):
    init_default_scope("mmdet")
    cfg = Config.fromfile(CONFIGS / "classification/_base_/datasets/imagenet_lt.py")
    dataset = write_list(images, "rose/3.png 1\n")
    for pipeline in (cfg.train_pipeline, cfg.test_pipeline):
        item = Compose([TRANSFORMS.build(step) for step in pipeline])(dataset.get_data_info(0))
        assert item["inputs"].shape == (3, 224, 224)
        assert item["inputs"].dtype == torch.uint8
        assert item["data_samples"] == 1


def test_a_padded_crop_is_a_shift():
    np.random.seed(0)
    image = np.arange(1, 5 * 6 * 3 + 1, dtype=np.uint8).reshape(5, 6, 3)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    windows = {padded[y : y + 5, x : x + 6].tobytes() for y in range(5) for x in range(5)}
    results = {PaddedRandomCrop(2)(dict(img=image))["img"].tobytes() for _ in range(400)}
    assert results == windows


def test_a_resized_crop_stays_within_its_bounds():
    np.random.seed(0)
    crop = RandomResizedCrop(8, area=(0.2, 0.5), aspect=(0.5, 2))
    for _ in range(300):
        top, left, height, width = crop._choose(40, 60)
        assert 0 <= top <= 40 - height
        assert 0 <= left <= 60 - width
        assert 0.17 < height * width / 2400 < 0.53
        assert 0.45 < width / height < 2.2
    # Nothing of the wanted shape fits into a strip.
    assert crop._choose(4, 1000)[2:] == (4, 8)
    image = np.zeros((40, 60, 3), np.uint8)
    assert crop(dict(img=image))["img"].shape == (8, 8, 3)


def test_jitter_changes_light_and_colour_and_nothing_else():
    np.random.seed(0)
    grey = np.full((4, 4, 3), 100, np.uint8)
    results = np.array([ColorJitter(0.4)(dict(img=grey))["img"] for _ in range(200)])
    assert (results == results[:, :1, :1, :1]).all()  # contrast and saturation leave grey alone
    assert results.min() >= 59
    assert results.max() <= 141
    assert results.std() > 10
    image = np.random.randint(0, 256, (4, 4, 3), dtype=np.uint8)
    assert np.array_equal(ColorJitter(0)(dict(img=image))["img"], image)


@pytest.mark.parametrize(
    "make",
    [
        lambda: PaddedRandomCrop(-1),
        lambda: RandomResizedCrop(8, area=(0, 1)),
        lambda: ColorJitter(2),
    ],
)
def test_options_out_of_range(make):
    with pytest.raises(UserError):
        make()
