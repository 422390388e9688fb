"""MiniLVIS crops: rendered whole or not at all, balanced, cut to a long tail on loading."""

import numpy as np
import pytest

from mmdet_eql.classification.datasets.crops import MiniLVISCrops
from mmdet_eql.minilvis.crops import CropsConfig, class_names, render_crops
from mmdet_eql.utils.errors import UserError
from tests.classification.conftest import TINY


def test_each_class_has_as_many_crops_as_asked_for(crops):
    train = MiniLVISCrops("minilvis_crops.npz", "train", data_root=str(crops))
    val = MiniLVISCrops("minilvis_crops.npz", "val", data_root=str(crops))
    assert train.class_frequency.instance_count.tolist() == [24] * 6
    assert val.class_frequency.instance_count.tolist() == [10] * 6
    assert train.metainfo["classes"] == tuple(class_names(TINY))
    assert train.get_data_info(0)["img"].shape == (16, 16, 3)
    cut = MiniLVISCrops("minilvis_crops.npz", "train", data_root=str(crops), imbalance_factor=8)
    assert cut.class_frequency.instance_count.tolist() == [24, 15, 10, 6, 4, 3]
    assert (
        cut.instance_labels.labels.tolist() == np.repeat(range(6), [24, 15, 10, 6, 4, 3]).tolist()
    )


def test_the_same_options_give_the_same_crops(crops):
    images, labels = render_crops(TINY, "val")
    with np.load(crops / "minilvis_crops.npz") as file:
        assert np.array_equal(file["val_images"], images)
        assert np.array_equal(file["val_labels"], labels)
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_crops_show_the_colour_of_their_class():
    """The middle of a crop has its category's hue, which a wrong box or label would not give."""
    config = CropsConfig(num_classes=6, train_per_class=10, val_per_class=10, confusability=0)
    images, labels = render_crops(config, "val")
    names = [name.split()[0] for name in class_names(config)]
    middle = images[:, 13:19, 13:19].reshape(len(images), -1, 3).mean(axis=1)
    hues = sorted(set(names))
    means = {
        hue: np.mean(
            [middle[labels == k].mean(axis=0) for k in range(6) if names[k] == hue], axis=0
        )
        for hue in hues
    }
    nearest = [min(hues, key=lambda hue: np.linalg.norm(m - means[hue])) for m in middle]
    hits = [found == names[label] for found, label in zip(nearest, labels, strict=True)]
    assert len(hues) > 1
    assert np.mean(hits) > 0.8


def test_a_missing_or_damaged_file_is_one_sentence(crops, tmp_path):
    with pytest.raises(UserError, match="no such file; make it by"):
        MiniLVISCrops(str(tmp_path / "crops.npz"), "train")
    content = (crops / "minilvis_crops.npz").read_bytes()
    (tmp_path / "half.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"half.npz: is not a complete file"):
        MiniLVISCrops(str(tmp_path / "half.npz"), "train")
    np.savez(tmp_path / "other.npz", train_images=np.zeros(3), train_labels=np.zeros(3), classes=[])
    with pytest.raises(UserError, match="do not fit together"):
        MiniLVISCrops(str(tmp_path / "other.npz"), "train")
    objects = np.array([{}], dtype=object)
    np.savez(tmp_path / "hostile.npz", train_images=objects, train_labels=objects, classes=objects)
    with pytest.raises(UserError, match=r"hostile.npz: is not a complete file .*allow_pickle"):
        MiniLVISCrops(str(tmp_path / "hostile.npz"), "train")
    with pytest.raises(UserError, match="choose 'train' or 'val'"):
        MiniLVISCrops(str(crops / "minilvis_crops.npz"), "test")


def test_the_tool_replaces_nothing_unasked(call_tool, tmp_path):
    options = ["--num-classes", 6, "--train-per-class", 10, "--val-per-class", 10]
    tool = "datasets/make_minilvis_crops.py"
    call_tool(tool, "crops.npz", *options, check=True)
    before = (tmp_path / "crops.npz").read_bytes()
    result = call_tool(tool, "crops.npz", *options)
    assert result.returncode == 2
    assert "--force" in result.stderr
    assert "Traceback" not in result.stderr
    assert before == (tmp_path / "crops.npz").read_bytes()
    result = call_tool(tool, "small.npz", "--val-per-class", 3)
    assert result.returncode == 2
    assert "val_per_class=3" in result.stderr
