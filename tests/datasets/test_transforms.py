"""Broken images are named, with and without DataLoader workers."""

import cv2
import numpy as np
import pytest
from mmdet.registry import TRANSFORMS
from PIL import Image
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


def encode(image, progressive: int) -> bytes:
    content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])[1]
    return content.tobytes()


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content[:-2],
        lambda content: content[:-1],
        lambda content: content + b"\0" * 100,
        lambda content: content + b"\0\0camera notes",
        lambda content: content + b"\xff\xda another scan?",
        lambda content: content[:-2] + b"\0\0camera notes",
    ],
)
def test_what_follows_a_whole_jpeg_makes_no_difference(tmp_path, image, progressive, edit):
    content = encode(image, progressive)
    (tmp_path / "a.jpg").write_bytes(edit(content))
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(load(tmp_path / "a.jpg")["img"], expected)


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("missing", [6, 30, 300])
def test_a_jpeg_with_something_missing_is_named(tmp_path, image, progressive, missing):
    (tmp_path / "a.jpg").write_bytes(encode(image, progressive)[:-missing])
    with pytest.raises(UserError, match=r"a\.jpg: the image is corrupted"):
        load(tmp_path / "a.jpg")


def test_an_image_that_exif_data_turn_is_called_so(tmp_path, image):
    path, exif = tmp_path / "a.jpg", Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image).save(path, exif=exif)
    with pytest.raises(UserError, match=r"30x40 pixels.* EXIF .*'color_ignore_orientation'"):
        load(path, height=30, width=40)
    step = dict(type="LoadVerifiedImage", color_type="color_ignore_orientation")
    results = dict(img_path=str(path), height=30, width=40)
    assert TRANSFORMS.build(step).transform(results)["img"].shape == (30, 40, 3)


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
