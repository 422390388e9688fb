"""The official CIFAR archives: read safely, cut to the published long tails."""

import pickle
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import DATASETS

from mmdet_eql.classification.datasets.cifar import read_cifar_file
from mmdet_eql.classification.datasets.long_tail import exponential_counts, long_tailed_indices
from mmdet_eql.utils.errors import UserError
from tests.classification.cifar_pickles import (
    numbered_images,
    python2_pickle,
    write_cifar10,
    write_cifar100,
)

# Totals as published with Cui et al. (arXiv 1901.05555) and Cao et al. (arXiv 1906.07413).
TOTALS = {
    10: {10: 20431, 50: 13996, 100: 12406, 200: 11203},
    100: {10: 19573, 50: 12608, 100: 10847, 200: 9502},
}
COUNTS_100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


@pytest.fixture(scope="module", params=[10, 100])
def full_archive(request, tmp_path_factory):
    """An archive with as many images as the real one, all but black."""
    root = tmp_path_factory.mktemp("cifar")
    write = write_cifar10 if request.param == 10 else write_cifar100
    yield request.param, root, write(root, 50000 // request.param)
    shutil.rmtree(root)  # 150 MB


def build(num_classes: int, root, **kwargs):
    return DATASETS.build(dict(type=f"LongTailedCIFAR{num_classes}", data_root=str(root), **kwargs))


def number_of(image: np.ndarray) -> int:
    """The number that :func:`numbered_images` wrote: red, in the first pixels of the first row."""
    return int.from_bytes(image[0, :3, 2].tobytes(), "little")


def test_long_tails_have_the_published_counts(full_archive):
    num_classes, root, labels = full_archive
    whole = build(num_classes, root, split="train")
    assert len(whole) == 50000
    for factor, total in TOTALS[num_classes].items():
        chosen = long_tailed_indices(labels, num_classes, factor)
        assert len(chosen) == total
        counts = np.bincount(labels[chosen])
        assert counts[0] == 50000 // num_classes
        assert counts[-1] == 50000 // num_classes // factor
        if (num_classes, factor) == (10, 100):
            assert counts.tolist() == COUNTS_100
    dataset = build(num_classes, root, split="train", imbalance_factor=100)
    assert len(dataset) == TOTALS[num_classes][100]
    assert dataset.class_frequency.instance_count.tolist() == (
        exponential_counts(50000 // num_classes, num_classes, 100).tolist()
    )
    # Each image is there once, with its own label.
    numbers = [number_of(dataset.get_data_info(i)["img"]) for i in range(0, len(dataset), 50)]
    assert len(set(numbers)) == len(numbers)
    assert [labels[n] for n in numbers] == [
        dataset.get_data_info(i)["gt_label"] for i in range(0, len(dataset), 50)
    ]


def test_the_same_images_stay_everywhere():
    # Written down once; NumPy promises that this generator never changes.
    expected = {
        0: [6, 24, 12, 27, 3, 18, 21, 9, 0, 15, 10, 16, 4, 8],
        7: [24, 15, 0, 6, 3, 27, 21, 9, 18, 12, 4, 10, 7, 8],
    }
    for seed, indices in expected.items():
        assert long_tailed_indices(np.arange(30) % 3, 3, 10, seed).tolist() == indices


@given(
    n_max=st.integers(1, 500),
    num_classes=st.integers(2, 30),
    share=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_counts_fall_from_all_to_the_factor(n_max, num_classes, share, seed):
    factor = 1 + share * (n_max - 1)
    counts = exponential_counts(n_max, num_classes, factor)
    assert counts[0] == n_max
    assert (np.diff(counts) <= 0).all()
    assert counts[-1] >= 1
    labels = np.arange(n_max * num_classes) % num_classes
    chosen = long_tailed_indices(labels, num_classes, factor, seed)
    assert len(np.unique(chosen)) == len(chosen)
    assert (np.bincount(labels[chosen]) == counts).all()


@pytest.mark.parametrize("factor", [0.5, 21, float("nan")])
def test_an_impossible_factor_is_one_sentence(factor):
    with pytest.raises(UserError, match=r"imbalance_factor is .* 20 images"):
        exponential_counts(20, 10, factor)


def test_a_set_that_is_not_balanced_is_one_sentence():
    with pytest.raises(UserError, match="class 0 has 1 images"):
        long_tailed_indices(np.array([0, 1, 1, 1]), 2, 1)


def test_a_small_archive(tmp_path):
    labels = write_cifar10(tmp_path, per_class=20)
    dataset = build(10, tmp_path, split="train", imbalance_factor=10, indices=20)
    assert dataset.class_frequency.instance_count.tolist()[:2] == [20, 15]
    assert dataset.metainfo["classes"][3] == "class 3"
    assert len(dataset) == 20
    assert dataset.instance_labels.labels.tolist() == [0] * 20
    info = dataset.get_data_info(5)
    assert labels[number_of(info["img"])] == 0
    assert info["img"].shape == (32, 32, 3)
    assert len(build(10, tmp_path, split="test")) == 10


def test_pixels_are_in_bgr(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar10(tmp_path, per_class=5)
    data = np.concatenate([np.full((10, 1024), value, np.uint8) for value in (250, 100, 7)], axis=1)
    content = {"labels": list(range(10)), "data": data}
    (folder / "test_batch").write_bytes(python2_pickle(content))
    image = build(10, tmp_path, split="test").get_data_info(0)["img"]
    assert image[4, 9].tolist() == [7, 100, 250]


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def evil_files(mark) -> dict[str, bytes]:
    reconstruct = b"cnumpy.core.multiarray\n_reconstruct\n"
    return {
        "opens a file": pickle.dumps({"data": Hostile(mark)}, protocol=2),
        "opens a file, protocol 4": pickle.dumps({"data": Hostile(mark)}, protocol=4),
        "system": b"\x80\x02}(U\x04datacposix\nsystem\nU\x06touch x\x85Ru.",
        "builtins by a longer name": b"\x80\x04\x8c\x05numpy\x8c\x0fcore.multiarray\x93.",
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\rndarray.dump\x93.",
        "eval": b"\x80\x02c__builtin__\neval\nU\x051 + 1\x85R.",
        "persistent id": b"\x80\x02U\x01xQ.",
        "extension": b"\x80\x02\x82\x01.",
        "array of objects": b"\x80\x02}(U\x04data"
        + reconstruct
        + b"(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01K\x01K\xc0\x86\x63numpy\ndtype\n(U\x02O8K\x00K\x01tR\x89U\x01xtbu.",
        "makes an array itself": b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",
        "reconstructs a dtype": b"\x80\x02" + reconstruct + b"(cnumpy\ndtype\nK\x00\x85U\x01btR.",
        "shape that lies": python2_pickle({"data": numbered_images(2)}).replace(
            b"J\x02\x00\x00\x00", b"J\x03\x00\x00\x00", 1
        ),
        "cut off": python2_pickle({"data": numbered_images(2)})[:-900],
        "empty": b"",
        "text": b"<html>not found</html>",
        "a list": python2_pickle({})[:2] + b"].",
    }


@pytest.mark.parametrize("kind", evil_files("x"))
def test_a_hostile_or_damaged_file_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "mark"
    path = tmp_path / "train"
    path.write_bytes(evil_files(mark)[kind])
    with pytest.raises(UserError, match="is not a file of the official CIFAR archive"):
        read_cifar_file(path)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["train"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": [0]}, "field 'data' is not an array"),
        ({"labels": [0], "data": numbered_images(2)}, "field 'labels' does not hold"),
        ({"labels": ["a", "b"], "data": numbered_images(2)}, "field 'labels' does not hold"),
        (
            {"labels": [0, 10], "data": numbered_images(2)},
            "has the label 10, but there",
        ),
        ({"fine_labels": [0, 1], "data": numbered_images(2)}, "field 'labels' does not hold"),
    ],
)
def test_a_wrong_field_is_one_sentence(tmp_path, content, message):
    write_cifar10(tmp_path, per_class=5)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(python2_pickle(content))
    with pytest.raises(UserError, match=message):
        build(10, tmp_path, split="test")


def test_a_missing_archive_says_what_to_download(tmp_path):
    with pytest.raises(UserError, match=r"download https://www.cs.toronto.edu.*cifar-100-python"):
        build(100, tmp_path)
    write_cifar10(tmp_path, per_class=5)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(UserError, match="data_batch_3: cannot be read"):
        build(10, tmp_path)
    with pytest.raises(UserError, match="choose 'train' or 'test'"):
        build(10, tmp_path, split="val")
