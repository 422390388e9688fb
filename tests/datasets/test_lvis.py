"""LVISFormatDataset: against mmdet's own reader, and at the edges of the format."""

import json
import random
from collections import Counter

import pytest
from mmdet.datasets import LVISV05Dataset, LVISV1Dataset
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset

from mmdet_eql.datasets import LVISFormatDataset
from mmdet_eql.frequency import class_frequency_of
from mmdet_eql.utils.errors import UserError
from tests.conftest import build_dataset as build


@pytest.fixture
def edited(minilvis, train_annotations, tmp_path):
    """A folder with the images of MiniLVIS and annotations changed by a function."""

    def make(edit):
        data = json.loads(json.dumps(train_annotations))
        edit(data)
        (tmp_path / "annotations").mkdir()
        (tmp_path / "annotations" / "minilvis_train.json").write_text(json.dumps(data))
        (tmp_path / "train").symlink_to(minilvis / "train")
        return tmp_path

    return make


@pytest.fixture
def unusual(edited):
    """Annotations in no order, some of them RLE, crowds, ignored, tiny or outside their image."""

    def edit(data):
        annotations = data["annotations"]
        random.Random(0).shuffle(annotations)
        for image in data["images"]:
            image["file_name"] = "train/" + image["coco_url"].rpartition("/")[2]
        size = [data["images"][0][side] for side in ("height", "width")]
        annotations[0]["segmentation"] = {"size": size, "counts": [size[0] * size[1]]}
        annotations[1]["segmentation"] = []
        annotations[2]["iscrowd"] = 1
        annotations[3]["ignore"] = 1
        annotations[4]["bbox"] = [3, 4.5, 0.5, 20]
        annotations[5]["bbox"] = [-30, 4, 20, 20]
        del annotations[7]["segmentation"]

    return edited(edit)


STOCK = {"v1": LVISV1Dataset, "v0.5": LVISV05Dataset}
FILTER = dict(filter_empty_gt=True, min_size=32)


@pytest.mark.parametrize("version", STOCK)
@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(filter_cfg=FILTER),
        dict(filter_cfg=FILTER, test_mode=True),
        dict(filter_cfg=FILTER, indices=7),
        dict(indices=-5),
        dict(indices=[3, 0, 3]),
        dict(filter_cfg=FILTER, serialize_data=False),
    ],
    ids=str,
)
def test_the_same_as_mmdets_reader(unusual, train_annotations, version, options):
    names = [c["name"] for c in sorted(train_annotations["categories"], key=lambda c: c["id"])]
    stock = STOCK[version](
        ann_file="annotations/minilvis_train.json",
        data_root=str(unusual),
        data_prefix=dict(img=""),
        metainfo=dict(classes=names),
        **options,
    )
    ours = build(unusual, **options)
    assert len(ours) == len(stock) > 0
    assert ours.metainfo["classes"] == tuple(names)
    for index in range(len(ours)):
        assert without_image_labels(ours.get_data_info(index)) == stock.get_data_info(index)
        assert ours.get_cat_ids(index) == stock.get_cat_ids(index)
        assert ours.instance_labels[index].tolist() == stock.get_cat_ids(index)


def without_image_labels(info: dict) -> dict:
    info.pop("positive_labels")
    info.pop("negative_labels")
    return info


@pytest.mark.parametrize("indices", [4, -4, [5, 1, 1], []])
def test_subsets(minilvis, indices):
    dataset = build(minilvis)
    ids = [dataset.get_data_info(index)["img_id"] for index in range(60)]
    if isinstance(indices, int):
        expected = ids[:indices] if indices > 0 else ids[indices:]
    else:
        expected = [ids[index] for index in indices]
    subset = dataset.get_subset(indices)
    assert len(dataset) == 60
    dataset.get_subset_(indices)
    for part in (subset, dataset):
        infos = [part.get_data_info(index) for index in range(len(part))]
        assert [info["img_id"] for info in infos] == expected
        assert [info["sample_idx"] for info in infos] == list(range(len(expected)))
        assert len(part.instance_labels) == len(expected)
    if expected:
        assert dataset.get_data_info(-1) == infos[-1]


def test_proposals_become_part_of_the_items(minilvis, tmp_path):
    dataset = build(minilvis)
    infos = [dataset.get_data_info(index) for index in range(60)]
    proposals = {
        "/".join(info["img_path"].split("/")[-2:]): dict(bboxes=[[0, 0, 1, index]])
        for index, info in enumerate(infos)
    }
    (tmp_path / "proposals.json").write_text(json.dumps(proposals))
    dataset = build(minilvis, proposal_file=str(tmp_path / "proposals.json"), indices=[7, 3])
    for index, expected in enumerate((7, 3)):
        info = dataset.get_data_info(index)
        assert info.pop("proposals") == dict(bboxes=[[0, 0, 1, expected]])
        assert info == {**infos[expected], "sample_idx": index}
        assert dataset.instance_labels[index].tolist() == dataset.get_cat_ids(index)
    assert len(dataset.get_subset(1)) == 1


def test_frequencies_are_those_of_the_file(minilvis, train_annotations):
    dataset = build(minilvis, filter_cfg=dict(filter_empty_gt=True), indices=7)
    freq = dataset.class_frequency
    images_of = Counter(
        category
        for _, category in {
            (a["image_id"], a["category_id"]) for a in train_annotations["annotations"]
        }
    )
    by_id = sorted(train_annotations["categories"], key=lambda c: c["id"])
    assert len(dataset) == 7  # yet nothing is missing from the counts
    assert freq.num_images == len(train_annotations["images"]) == 60
    assert freq.image_count.tolist() == [images_of[c["id"]] for c in by_id]
    assert freq.image_count.tolist() == [c["image_count"] for c in by_id]
    assert freq.instance_count.tolist() == [c["instance_count"] for c in by_id]
    assert freq.group.tolist() == [c["frequency"] for c in by_id]
    assert freq.class_names == tuple(c["name"] for c in by_id)


def test_frequencies_are_found_through_mmengines_wrappers(minilvis):
    dataset = build(minilvis)
    for wrapped in (RepeatDataset(dataset, 3), ClassBalancedDataset(dataset, 0.5)):
        assert class_frequency_of(wrapped) is dataset.class_frequency
    twice = class_frequency_of(ConcatDataset([dataset, build(minilvis)]))
    assert twice.image_count.tolist() == (2 * dataset.class_frequency.image_count).tolist()
    assert twice.num_images == 120


def test_some_classes_in_an_order_of_ones_own(minilvis):
    everything = build(minilvis)
    names = everything.metainfo["classes"]
    wanted = (names[5], names[2])
    dataset = build(minilvis, metainfo=dict(classes=wanted))
    assert dataset.metainfo["classes"] == wanted
    counts = everything.class_frequency.image_count
    assert dataset.class_frequency.image_count.tolist() == [counts[5], counts[2]]
    seen = Counter(label for i in range(len(dataset)) for label in dataset.get_cat_ids(i))
    all_seen = Counter(label for i in range(len(everything)) for label in everything.get_cat_ids(i))
    assert seen == {0: all_seen[5], 1: all_seen[2]}


def test_an_unknown_class_is_named(minilvis):
    with pytest.raises(UserError, match="no category 'unicorn'"):
        build(minilvis, metainfo=dict(classes=("unicorn",)))


def test_files_named_without_a_url(edited):
    def edit(data):
        for image in data["images"]:
            image["file_name"] = "train/" + image.pop("coco_url").rpartition("/")[2]

    folder = edited(edit)
    info = build(folder).get_data_info(0)
    assert info["img_path"].startswith(str(folder / "train"))


def test_a_path_out_of_the_image_folder_is_refused(edited):
    folder = edited(lambda data: data["images"][3].update(coco_url="", file_name="../../secret"))
    with pytest.raises(UserError, match=r"'../../secret', outside the image folder"):
        build(folder)


def test_two_categories_of_one_name_are_refused(edited):
    def edit(data):
        data["categories"][1]["name"] = data["categories"][0]["name"]

    with pytest.raises(UserError, match="two categories are called"):
        build(edited(edit))


def test_missing_images_are_told_at_the_start(edited):
    names = dict(coco_url="http://x/elsewhere/1.jpg", file_name="1.jpg")
    folder = edited(lambda data: data["images"][0].update(names))
    with pytest.raises(UserError, match="elsewhere: no such image folder"):
        build(folder)
    (folder / "elsewhere").mkdir()
    with pytest.raises(UserError, match=r"1\.jpg: no such image, though"):
        build(folder)


def test_a_filter_that_drops_everything(minilvis):
    with pytest.raises(UserError, match="drops every image"):
        build(minilvis, filter_cfg=dict(min_size=1000))


def test_semantic_maps_lie_beside_the_images(minilvis):
    dataset = LVISFormatDataset(
        ann_file="annotations/minilvis_train.json",
        data_root=str(minilvis),
        data_prefix=dict(img="", seg="semantic/"),
    )
    path = dataset.get_data_info(0)["seg_map_path"]
    assert path == str(minilvis / "semantic" / "train" / "000000000001.png")
    assert (minilvis / "semantic" / "train" / "000000000001.png").is_file()


@pytest.mark.parametrize("prefix", [dict(img="", seg="elsewhere/"), dict(img="")])
def test_missing_semantic_maps_are_told_at_the_start(minilvis, prefix):
    with pytest.raises(UserError, match=r"no such semantic map, which LoadAnnotations loads"):
        LVISFormatDataset(
            ann_file="annotations/minilvis_train.json",
            data_root=str(minilvis),
            data_prefix=prefix,
            pipeline=[dict(type="LoadAnnotations", with_seg=True)],
        )


def test_image_level_labels_are_those_of_the_file(minilvis, train_annotations):
    dataset = build(minilvis)
    for index, image in enumerate(train_annotations["images"]):
        info = dataset.get_data_info(index)
        annotated = {
            a["category_id"]
            for a in train_annotations["annotations"]
            if a["image_id"] == image["id"]
        }
        # The categories of MiniLVIS have the ids 1 to C.
        assert info["positive_labels"] == sorted(i - 1 for i in annotated)
        assert info["negative_labels"] == sorted(i - 1 for i in image["neg_category_ids"])
    some = build(minilvis, metainfo=dict(classes=dataset.metainfo["classes"][3:5]))
    assert all(set(some.get_data_info(i)["negative_labels"]) <= {0, 1} for i in range(60))


def test_test_images_come_without_annotations(edited):
    def edit(data):
        del data["annotations"]
        for image in data["images"]:
            del image["neg_category_ids"], image["not_exhaustive_category_ids"]

    folder = edited(edit)
    dataset = build(folder, test_mode=True)
    assert len(dataset) == 60
    assert dataset.get_data_info(0)["instances"] == []
    with pytest.raises(UserError, match="field 'annotations' is missing"):
        build(folder)
