"""Broken images are named, with and without DataLoader workers."""

import cv2
import numpy as np
import pytest
from mmdet.registry import TRANSFORMS
from torch.utils.data import DataLoader, Dataset

from mmdet_eql.utils.errors import UserError


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def load(path, **results):
    return TRANSFORMS.build(dict(type="LoadVerifiedImage")).transform(
        dict(img_path=str(path), **results)
    )


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_a_whole_image_is_loaded(tmp_path, image, extension):
    path = tmp_path / f"a.{extension}"
    cv2.imwrite(str(path), image)
    results = load(path, height=30, width=40)
    assert results["img_shape"] == results["ori_shape"] == (30, 40)
    np.testing.assert_array_equal(results["img"], cv2.imread(str(path)))


def test_bytes_after_the_end_of_a_jpeg_are_allowed(tmp_path, image):
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), image)
    path.write_bytes(path.read_bytes() + b"\0\0camera notes")
    assert load(path)["img"].shape == (30, 40, 3)


@pytest.mark.parametrize("extension", ["png", "jpg"])
@pytest.mark.parametrize("kept", [0, 3, 0.5, 0.95])
def test_a_cut_off_image_is_named(tmp_path, image, extension, kept):
    path = tmp_path / f"a.{extension}"
    cv2.imwrite(str(path), image)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else kept])
    with pytest.raises(UserError, match=f"a.{extension}: the image is corrupted"):
        load(path)


def test_another_size_than_annotated_is_refused(tmp_path, image):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), image)
    with pytest.raises(UserError, match=r"40x30 pixels, but its annotation says 30x40"):
        load(path, height=40, width=30)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone.jpg: the image cannot be read \(No such file"):
        load(tmp_path / "gone.jpg")


class Broken(Dataset):
    def __init__(self, path):
        self.path = path

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return load(self.path)


def test_a_worker_hands_over_the_sentence_alone(tmp_path):
    with pytest.raises(UserError) as error:
        next(iter(DataLoader(Broken(tmp_path / "gone.jpg"), num_workers=1)))
    assert str(error.value).startswith(str(tmp_path / "gone.jpg"))
    assert "\n" not in str(error.value)
