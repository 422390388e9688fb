"""Features that are written come back the same; what is missing or different is named."""

import dataclasses
import json

import numpy as np
import pytest

from mmdet_eql.decoupled import FeatureSplit
from mmdet_eql.decoupled.feature_cache import (
    CacheDescription,
    ImageFeatures,
    SplitDescription,
    begin_cache,
    read_description,
    write_shard,
)
from mmdet_eql.utils.errors import UserError

COUNTS = (3, 0, 5, 2, 4)
DIM, STAGES, PER_SHARD = 4, 2, 2


def describe(**changes) -> CacheDescription:
    splits = {
        name: SplitDescription(f"{name}.json", len(COUNTS), 6, [dict(type="Resize")], PER_SHARD)
        for name in ("train", "val")
    }
    description = CacheDescription(
        ["cat", "dog"], STAGES, DIM, "float16", dict(type="A", head=[dict(n=1)]), "ab", splits
    )
    return dataclasses.replace(description, **changes)


def make_images(labels: bool) -> list[ImageFeatures]:
    """Five images; the second stage has a RoI less wherever there is one."""
    rng, images = np.random.default_rng(0), []
    for index, count in enumerate(COUNTS):
        counts = (count, max(count - 1, 0))
        images.append(
            ImageFeatures(
                dict(
                    img_id=10 * index, img_shape=(8, 9), ori_shape=(4, 4), scale_factor=(2.0, 2.25)
                ),
                [rng.normal(size=(n, DIM)).astype(np.float32) for n in counts],
                [rng.uniform(0, 99, size=(n, 4)).astype(np.float32) for n in counts],
                [rng.integers(0, 3, size=n) for n in counts] if labels else [],
            )
        )
    return images


@pytest.fixture
def folder(tmp_path):
    begin_cache(tmp_path, describe())
    for split in ("train", "val"):
        images = make_images(split == "train")
        for number in range(3):
            write_shard(tmp_path, split, number, images[2 * number : 2 * number + 2])
    return tmp_path


@pytest.mark.parametrize("split", ["train", "val"])
def test_rows_come_back(folder, split):
    features, images = FeatureSplit(folder, split), make_images(split == "train")
    assert len(features) == len(COUNTS)
    assert features.image_ids.tolist() == [0, 10, 20, 30, 40]
    assert [counts.tolist() for counts in features.counts] == [[3, 0, 5, 2, 4], [2, 0, 4, 1, 3]]
    for item, image in enumerate(images):
        rows = features.rows(item)
        assert ("labels_0" in rows) == (split == "train")
        for stage in range(STAGES):
            expected = image.features[stage].astype(np.float16)
            np.testing.assert_array_equal(rows[f"features_{stage}"], expected, strict=True)
            np.testing.assert_array_equal(rows[f"rois_{stage}"], image.rois[stage], strict=True)
            if image.labels:
                np.testing.assert_array_equal(rows[f"labels_{stage}"], image.labels[stage])
    assert features.metainfo[3] == dict(images[3].metainfo, flip=None, file_size=None)


def test_a_batch_is_its_images_in_their_order(folder):
    features = FeatureSplit(folder)
    batch = features.batch(np.array([4, 1, 2, 4]))
    assert batch["counts_0"].tolist() == [4, 0, 5, 4]
    assert batch["counts_1"].tolist() == [3, 0, 4, 3]
    for name in ("features_0", "rois_1", "labels_1"):
        expected = np.concatenate([features.rows(item)[name] for item in (4, 1, 2, 4)])
        np.testing.assert_array_equal(batch[name], expected, strict=True)


def test_rows_are_not_copied(folder):
    rows = FeatureSplit(folder).rows(2)["features_0"]
    assert not rows.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 0


def test_a_cache_is_begun_again_where_it_was(folder):
    begin_cache(folder, describe(checkpoint="moved.pth", config="moved.py"))
    assert describe().missing_shards(folder, "train") == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(dtype="float32"), "dtype is 'float16' there and 'float32' now"),
        (dict(checkpoint_sha256="cd"), "checkpoint_sha256 is 'ab' there and 'cd' now"),
        (dict(model=dict(type="A", head=[dict(n=2)])), "model.head.0.n is 1 there and 2 now"),
        (dict(model=dict(type="A", head=[], b=1)), "model.head is"),
        (dict(classes=["cat", "cow"]), "classes.1 is 'dog' there and 'cow' now"),
        (dict(splits={"train": describe().splits["train"]}), "splits.val is"),
    ],
)
def test_other_features_are_refused(folder, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        begin_cache(folder, describe(**changes))


def test_shards_of_something_unknown_are_refused(folder):
    (folder / "features.json").unlink()
    with pytest.raises(UserError, match="holds features, but no features"):
        begin_cache(folder, describe(checkpoint_sha256="cd"))


def test_labels_of_other_boxes_are_refused(tmp_path):
    def begin(checksum):
        split = dataclasses.replace(describe().splits["train"], annotations=checksum)
        begin_cache(tmp_path, describe(splits={"train": split}))

    begin(None)  # an earlier version did not know
    write_shard(tmp_path, "train", 0, make_images(True)[:2])
    begin(1)
    (tmp_path / "features.json").unlink()
    (tmp_path / "train").rename(tmp_path / "before")
    begin(1)
    write_shard(tmp_path, "train", 0, make_images(True)[:2])
    with pytest.raises(UserError, match=r"splits\.train\.annotations is 1 there and 2 now"):
        begin(2)


def test_a_request_without_a_shard_can_be_changed(tmp_path):
    begin_cache(tmp_path, describe())
    begin_cache(tmp_path, describe(dtype="float32"))
    assert read_description(tmp_path).dtype == "float32"


def test_what_is_missing_is_named(folder):
    with pytest.raises(UserError, match="has no split 'train_flipped', but train, val"):
        FeatureSplit(folder, "train_flipped")
    with pytest.raises(UserError, match=r"no such file; make the features by"):
        FeatureSplit(folder / "train")
    (folder / "val" / "00001" / "rois_0.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"rois_0.npy: cannot be read"):
        FeatureSplit(folder, "val").rows(2)
    (folder / "train" / "00001").rename(folder / "train" / ".00001.tmp")
    assert describe().missing_shards(folder, "train") == [1]
    with pytest.raises(UserError, match="1 of 3 shards of train are missing"):
        FeatureSplit(folder)
    # Left by a process that was killed.
    write_shard(folder, "train", 1, make_images(True)[2:4])
    assert len(FeatureSplit(folder).rows(2)["labels_0"]) == 5


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps(dict(format=2))])
def test_another_file_is_no_description(tmp_path, content):
    (tmp_path / "features.json").write_text(content)
    with pytest.raises(UserError, match="is not the description of a feature cache"):
        FeatureSplit(tmp_path)


@pytest.mark.parametrize(("value", "dtype"), [(1e5, "float16"), (np.nan, "float32")])
def test_features_that_do_not_fit_the_type_are_refused(tmp_path, value, dtype):
    images = make_images(True)
    images[2].features[1][0, 1] = value
    with pytest.raises(UserError, match=f"image 20: a feature is not finite in {dtype}"):
        write_shard(tmp_path, "train", 0, images, dtype)
    assert not list(tmp_path.iterdir())


def test_float32(tmp_path):
    images, description = make_images(True), describe(dtype="float32")
    begin_cache(tmp_path, description)
    for number in range(3):
        write_shard(tmp_path, "train", number, images[2 * number : 2 * number + 2], "float32")
    rows = FeatureSplit(tmp_path).rows(4)["features_1"]
    np.testing.assert_array_equal(rows, images[4].features[1], strict=True)
    assert describe().image_bytes("train") == 6 * 2 * (2 * DIM + 16 + 4)
