"""MiniLVIS is what it says: LVIS format, a long tail, federated labels, reproducible bytes."""

import dataclasses
import json
import math
import os
import runpy
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lvis import LVIS
from pycocotools import mask as mask_utils

from mmdet_eql.annotations.cache import CACHE_FOLDER
from mmdet_eql.annotations.reader import read_annotations
from mmdet_eql.frequency import frequency_group
from mmdet_eql.minilvis import (
    BACKGROUND_KINDS,
    MiniLVISConfig,
    annotation,
    folder,
    layout,
    make_minilvis,
    rendering,
)
from mmdet_eql.minilvis.folder import read_minilvis
from mmdet_eql.minilvis.layout import MIN_VISIBLE_SHARE, SUPERSAMPLING
from mmdet_eql.minilvis.planning import plan_dataset, present_images, train_image_counts, val_floor
from mmdet_eql.minilvis.rendering import render_scene
from mmdet_eql.minilvis.vocabulary import (
    ANGLES,
    HUE_FAMILIES,
    SHAPE_FAMILIES,
    TEXTURES,
    Category,
    hue_angle,
    make_vocabulary,
    shape_outline,
    texture_contrast,
)
from mmdet_eql.utils.errors import UserError

LVIS_COUNTS = Path(__file__).parents[3] / "shared" / "lvis_v0.5_image_counts.json"
TOOL = Path(__file__).parents[2] / "tools" / "datasets" / "make_minilvis.py"
SPLITS = ("train", "val")
# The set of the fixture `minilvis`.
TINY = MiniLVISConfig(num_categories=12, num_train_images=60, num_val_images=24, image_size=96)
# Made anew in several tests.
TINIEST = MiniLVISConfig(num_categories=6, num_train_images=20, num_val_images=10, image_size=64)


@pytest.fixture(scope="module")
def content(minilvis):
    """The content of both annotation files."""
    return {split: json.loads(annotation_path(minilvis, split).read_text()) for split in SPLITS}


@pytest.fixture(scope="module")
def truth():
    """Of each split, the plan of each image and all regions that it shows, annotated or not."""
    plan = plan_dataset(TINY)
    return {
        split: {
            image.image_id: (image, render_scene(image, plan.categories, TINY).owner)
            for image in plan.images[split]
        }
        for split in SPLITS
    }


@pytest.fixture(scope="module")
def default_plan():
    return plan_dataset(MiniLVISConfig())


@pytest.fixture
def made(tmp_path):
    out = tmp_path / "set"
    make_minilvis(out, TINIEST, num_workers=1)
    return out


def annotation_path(root, split):
    return root / "annotations" / f"minilvis_{split}.json"


def files(root, caches=False):
    """Content of every file by its path; tests that share a set leave caches in it."""
    paths = [path for path in root.rglob("*") if path.is_file()]
    if not caches:
        paths = [path for path in paths if path.parent.name != CACHE_FOLDER]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def decode(segmentation, size):
    return mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(segmentation, size, size)))


# ---------------------------------------------------------------------------------------------
# The files


@pytest.mark.parametrize("split", SPLITS)
def test_the_lvis_package_reads_it(minilvis, content, split):
    lvis = LVIS(str(annotation_path(minilvis, split)))
    assert lvis.get_img_ids() == list(TINY.image_ids(split))
    assert lvis.get_cat_ids() == list(range(1, 13))
    annotations = lvis.load_anns(lvis.get_ann_ids())
    assert len(annotations) == len(content[split]["annotations"]) > 0
    for record in annotations:
        mask = lvis.ann_to_mask(record)
        assert mask.shape == (96, 96)
        assert mask.sum() == record["area"] > 0
        points = np.concatenate([np.reshape(p, (-1, 2)) for p in record["segmentation"]])
        x, y, width, height = record["bbox"]
        corners = [*points.min(axis=0), *points.max(axis=0)]
        np.testing.assert_allclose([x, y, x + width, y + height], corners, atol=0.011)
        # No pixel of the mask lies outside; tips thinner than a pixel are in the box alone.
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert columns[0] > x - 1 and columns[-1] < x + width
        assert rows[0] > y - 1 and rows[-1] < y + height


@pytest.mark.parametrize("split", SPLITS)
def test_every_field_has_the_type_that_lvis_gives_it(content, split):
    fields = {
        "categories": {
            "id": int,
            "name": str,
            "synset": str,
            "synonyms": list,
            "def": str,
            "frequency": str,
            "image_count": int,
            "instance_count": int,
        },
        "images": {
            "id": int,
            "width": int,
            "height": int,
            "file_name": str,
            "coco_url": str,
            "flickr_url": str,
            "license": int,
            "date_captured": str,
            "neg_category_ids": list,
            "not_exhaustive_category_ids": list,
        },
        "annotations": {
            "id": int,
            "image_id": int,
            "category_id": int,
            "segmentation": list,
            "area": float,
            "bbox": list,
        },
    }
    data = content[split]
    assert set(data) == {"info", "licenses", *fields}
    for table, types in fields.items():
        assert [record["id"] for record in data[table]] == sorted(
            {record["id"] for record in data[table]}
        )
        for record in data[table]:
            assert {name: type(value) for name, value in record.items()} == types
    for image in data["images"]:
        for ids in (image["neg_category_ids"], image["not_exhaustive_category_ids"]):
            assert ids == sorted(set(ids)) and set(ids) <= set(range(1, 13))
    for record in data["annotations"]:
        assert all(type(value) is float for value in record["bbox"])
        assert [round(value, 2) for value in record["bbox"]] == record["bbox"]
        assert record["segmentation"]
        for polygon in record["segmentation"]:
            assert len(polygon) >= 6 and len(polygon) % 2 == 0
            assert all(type(value) is float and 0 <= value <= 96 for value in polygon)


def test_files_lie_where_the_annotations_say(minilvis, content):
    named = {"minilvis.json", *(f"annotations/minilvis_{split}.json" for split in SPLITS)}
    for split in SPLITS:
        for image in content[split]["images"]:
            assert image["coco_url"] == f"http://images.cocodataset.org/{image['file_name']}"
            assert image["file_name"] == f"{split}/{image['id']:012d}.jpg"
            pixels = cv2.imread(str(minilvis / image["file_name"]), cv2.IMREAD_UNCHANGED)
            assert pixels.shape == (image["height"], image["width"], 3) == (96, 96, 3)
            # Something is to be seen.
            assert pixels.std() > 10
            semantic = f"semantic/{split}/{image['id']:012d}.png"
            named |= {image["file_name"], semantic}
    assert set(files(minilvis)) == named
    ids = [image["id"] for split in SPLITS for image in content[split]["images"]]
    assert len(set(ids)) == len(ids) == 84


def test_counts_are_true(content):
    images, instances = defaultdict(set), Counter()
    for record in content["train"]["annotations"]:
        images[record["category_id"]].add(record["image_id"])
        instances[record["category_id"]] += 1
    # As in LVIS, both files give the frequencies of the training split.
    assert content["train"]["categories"] == content["val"]["categories"]
    for category in content["train"]["categories"]:
        number = len(images[category["id"]])
        assert category["image_count"] == number >= 2
        assert category["instance_count"] == instances[category["id"]] >= number
        assert category["frequency"] == ("r" if number <= 10 else "c" if number <= 100 else "f")
    assert {category["frequency"] for category in content["train"]["categories"]} == {"r", "c"}


def test_every_category_is_in_val(content):
    images = defaultdict(set)
    for record in content["val"]["annotations"]:
        images[record["category_id"]].add(record["image_id"])
    assert min(len(images[identifier]) for identifier in range(1, 13)) >= val_floor(TINY) == 6


# ---------------------------------------------------------------------------------------------
# Federated labels


@pytest.mark.parametrize("split", SPLITS)
def test_labels_tell_the_truth_about_the_picture(content, truth, split):
    annotated = defaultdict(list)
    for record in content[split]["annotations"]:
        annotated[record["image_id"]].append(record)
    seen = Counter()
    for image in content[split]["images"]:
        plan, owner = truth[split][image["id"]]
        assert set(np.unique(owner)) == set(range(len(plan.category_ids) + 1))
        in_picture = Counter(plan.category_ids)
        in_file = Counter(record["category_id"] for record in annotated[image["id"]])
        negative = set(image["neg_category_ids"])
        incomplete = set(image["not_exhaustive_category_ids"])

        assert TINY.min_objects <= len(plan.category_ids) <= TINY.max_objects
        assert not negative & set(in_picture)
        assert incomplete <= set(in_file) <= set(in_picture)
        for category, number in in_picture.items():
            if category in incomplete:
                assert 1 <= in_file[category] < number
                seen["incomplete"] += 1
            elif category in in_file:
                assert in_file[category] == number
                seen["exhaustive"] += 1
            else:
                seen["unlabelled"] += 1
        # The very objects that are annotated, not just as many.
        assert [(r["category_id"], r["segmentation"]) for r in annotated[image["id"]]] == [
            (category, annotation.visible_polygons(owner == number))
            for number, category in enumerate(plan.category_ids, start=1)
            if plan.annotated[number - 1]
        ]
    assert min(seen[kind] for kind in ("incomplete", "exhaustive", "unlabelled")) > 0


@pytest.mark.parametrize("split", SPLITS)
def test_polygons_cover_what_is_seen_of_each_object(split):
    plan = plan_dataset(TINY)
    overlap, parts = [], []
    for image in plan.images[split]:
        scene = render_scene(image, plan.categories, TINY)
        claimed = np.zeros((96, 96), dtype=np.int64)
        for number in range(1, len(image.category_ids) + 1):
            centre = SUPERSAMPLING // 2
            seen = scene.owner[centre::SUPERSAMPLING, centre::SUPERSAMPLING] == number
            polygons = annotation.visible_polygons(scene.owner == number)
            mask = decode(polygons, 96) > 0
            overlap.append((mask & seen).sum() / (mask | seen).sum())
            parts.append(len(polygons))
            claimed += mask
            # Enough is left even of the smallest one to tell what it is.
            smallest = MIN_VISIBLE_SHARE * math.pi / 4 * TINY.object_diameter[0] ** 2
            assert (scene.owner == number).sum() / SUPERSAMPLING**2 >= 0.95 * smallest
        # Objects that hide one another do not share pixels, but for the edges' roundings.
        assert (claimed > 1).mean() < 0.02
    assert min(overlap) > 0.75 and np.mean(overlap) > 0.94
    # Some objects are cut in two by what is in front of them.
    assert max(parts) > 1


def test_region_around_a_hole_becomes_polygons_without_it():
    region = np.zeros((160, 160), dtype=bool)
    region[20:120, 30:150] = True
    region[50:90, 60:100] = False
    polygons = annotation.visible_polygons(region)
    mask = decode(polygons, 160 // SUPERSAMPLING)
    expected = region[2::SUPERSAMPLING, 2::SUPERSAMPLING]
    assert len(polygons) == 2
    assert (mask > 0).sum() == pytest.approx(expected.sum(), rel=0.03)
    assert mask[17, 20] == 0 and mask[8, 20] == 1


# ---------------------------------------------------------------------------------------------
# Semantic maps


def test_semantic_map_holds_region_kinds_and_leaves_objects_out(minilvis):
    plan = plan_dataset(TINY)
    kinds = set()
    for split in SPLITS:
        for image in plan.images[split]:
            path = minilvis / "semantic" / split / f"{image.image_id:012d}.png"
            semantic = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert semantic.shape == (96, 96) and semantic.dtype == np.uint8
            owner = render_scene(image, plan.categories, TINY).owner
            centre = SUPERSAMPLING // 2
            in_front = owner[centre::SUPERSAMPLING, centre::SUPERSAMPLING] > 0
            np.testing.assert_array_equal(semantic == 0, in_front)
            kinds |= set(np.unique(semantic[~in_front]).tolist())
    assert kinds == set(range(1, len(BACKGROUND_KINDS) + 1))


# ---------------------------------------------------------------------------------------------
# The long tail


def test_default_is_the_documented_regime(default_plan):
    config = MiniLVISConfig()
    group = frequency_group(np.array(default_plan.image_count))
    assert Counter(group.tolist()) == {"r": 145, "c": 41, "f": 14}
    # The head dwarfs the tail.
    assert max(default_plan.image_count) == 1600 and min(default_plan.image_count) == 2

    for split, labelled_per_image in (("train", 2.1), ("val", 3.2)):
        images = default_plan.images[split]
        labelled, negative, unannotated, objects = Counter(), Counter(), 0, 0
        for image in images:
            pairs = zip(image.category_ids, image.annotated, strict=True)
            labelled.update({category for category, shown in pairs if shown})
            negative.update(group[i - 1] for i in image.neg_category_ids)
            unannotated += image.annotated.count(False)
            objects += len(image.annotated)
            assert 7 <= len(image.category_ids) <= 12
            assert not set(image.neg_category_ids) & set(image.category_ids)
        assert sum(labelled.values()) / len(images) == pytest.approx(labelled_per_image, abs=0.05)
        assert sum(negative.values()) / len(images) == pytest.approx(9.4, abs=0.3)
        for name, share in (("r", 0.17), ("c", 0.47), ("f", 0.36)):
            assert negative[name] / sum(negative.values()) == pytest.approx(share, abs=0.04)
        incomplete = sum(len(image.not_exhaustive_category_ids) for image in images)
        assert incomplete == round(0.16 * len(images))
        assert unannotated / objects == pytest.approx(0.6, abs=0.05)
        if split == "val":
            assert min(labelled[i] for i in range(1, 201)) == 10 == val_floor(config)
        else:
            assert [labelled[i] for i in range(1, 201)] == list(default_plan.image_count)


def test_training_counts_follow_the_curve_of_the_rank():
    config = MiniLVISConfig()
    labelled = train_image_counts(config)
    present = present_images(labelled, config, config.num_train_images)
    rank = np.arange(1, 201)
    # Between the head's limit and the floor of 2, counts are those of one power law, rounded up.
    free = (labelled < 1600) & (labelled > 2)
    lowest = ((labelled - 1) * rank**1.75)[free].max()
    highest = (labelled * rank**1.75)[free].min()
    assert free.sum() > 100 and lowest < highest
    assert (highest * 3**-1.75 >= 1600) and np.all(labelled[:3] == 1600)
    # 0.4 of the images a category is present in are labelled with it.
    np.testing.assert_allclose(labelled / present, 0.4, atol=0.05)
    assert labelled.sum() / present.sum() == pytest.approx(0.4, abs=0.005)


def test_given_counts_take_the_place_of_the_curve():
    counts = (1, 9, 40, 3, 2, 17, 5, 1)
    config = MiniLVISConfig(8, 150, 60, image_counts=counts)
    plan = plan_dataset(config)
    assert sorted(plan.image_count) == sorted(counts)
    labelled = Counter(
        category
        for image in plan.images["train"]
        for category in {c for c, a in zip(image.category_ids, image.annotated, strict=True) if a}
    )
    assert tuple(labelled[i + 1] for i in range(8)) == plan.image_count
    # Fewer categories stand for all of them.
    fewer = dataclasses.replace(config, num_categories=6, image_counts=counts * 3)
    assert train_image_counts(fewer).tolist() == [40, 9, 5, 3, 1, 1]
    with pytest.raises(UserError, match="image_counts up to 149, 608 in all"):
        train_image_counts(dataclasses.replace(config, image_counts=(149, 3)))
    for invalid in ((), (3, 0), (3, True), (3, 2.5)):
        with pytest.raises(UserError, match="image_counts must be whole numbers"):
            MiniLVISConfig(image_counts=invalid)


def test_the_tool_reads_counts_from_a_list_or_annotations(call_tool, tmp_path):
    out, path = tmp_path / "set", tmp_path / "counts.json"
    options = ("--num-categories", 6, "--num-train-images", 40, "--num-val-images", 20)
    counts = [9, 7, 5, 3, 2, 1]
    categories = [{"id": i, "image_count": count} for i, count in enumerate(counts)]
    for content in (counts, {"images": [], "annotations": [], "categories": categories}):
        path.write_text(json.dumps(content))
        call_tool("datasets/make_minilvis.py", out, "--image-counts", path, *options, check=True)
        made = json.loads((out / "annotations" / "minilvis_train.json").read_text())
        assert sorted(c["image_count"] for c in made["categories"]) == sorted(counts)
        shutil.rmtree(out)
    for content, reason in (('["x"]', "Expected `int`"), ('{"categories": [{}]}', "image_count")):
        path.write_text(content)
        result = call_tool("datasets/make_minilvis.py", out, "--image-counts", path)
        assert result.returncode == 2
        assert reason in result.stderr and "annotations in LVIS's format" in result.stderr


def test_the_counts_of_lvis_fit():
    if not LVIS_COUNTS.is_file():
        pytest.skip("needs the image counts of LVIS v0.5")
    given = json.loads(LVIS_COUNTS.read_text())
    config = MiniLVISConfig(1000, given["num_images"], image_counts=tuple(given["image_count"]))
    counts = train_image_counts(config)
    shares = [np.mean(frequency_group(np.array(c)) == "r") for c in (counts, given["image_count"])]
    assert shares[0] == pytest.approx(shares[1], abs=0.01)


@settings(max_examples=25, deadline=None)
@given(
    num_categories=st.integers(6, 60),
    steepness=st.floats(0, 3),
    label_rate=st.floats(0.2, 1),
    seed=st.integers(0, 1000),
)
def test_plans_keep_their_promises(num_categories, steepness, label_rate, seed):
    config = MiniLVISConfig(
        num_categories=num_categories,
        num_train_images=150,
        num_val_images=60,
        steepness=steepness,
        label_rate=label_rate,
        seed=seed,
    )
    plan = plan_dataset(config)
    by_rank = [0] * num_categories
    for category, count in zip(plan.categories, plan.image_count, strict=True):
        by_rank[category.rank - 1] = count
    assert by_rank == sorted(by_rank, reverse=True) and by_rank[-1] >= 2
    if steepness == 0:
        assert by_rank[0] == by_rank[-1]
    for split in SPLITS:
        labelled, present = Counter(), Counter()
        for image in plan.images[split]:
            counted = Counter(image.category_ids)
            shown = Counter(
                category
                for category, annotated in zip(image.category_ids, image.annotated, strict=True)
                if annotated
            )
            present.update(set(counted))
            labelled.update(set(shown))
            assert config.min_objects <= sum(counted.values()) <= config.max_objects
            assert not set(image.neg_category_ids) & set(counted)
            assert len(set(image.neg_category_ids)) <= num_categories / 3
            for category, number in shown.items():
                partly = category in image.not_exhaustive_category_ids
                assert (number < counted[category]) == partly
            assert set(image.not_exhaustive_category_ids) <= set(shown)
        assert max(present.values()) <= 0.8 * len(plan.images[split])
        if split == "train":
            assert [labelled[c.id] for c in plan.categories] == list(plan.image_count)
        else:
            assert min(labelled[c.id] for c in plan.categories) >= val_floor(config) >= 1


def test_label_rate_one_leaves_nothing_out():
    config = dataclasses.replace(TINY, label_rate=1, not_exhaustive_per_image=0)
    for images in plan_dataset(config).images.values():
        assert all(all(image.annotated) for image in images)


# ---------------------------------------------------------------------------------------------
# Categories


@pytest.mark.parametrize("num_categories", [6, 100, 200, 330, 1000])
def test_categories_share_shapes_hues_and_textures(num_categories):
    categories = make_vocabulary(num_categories, np.random.default_rng(3))
    names = [category.name for category in categories]
    assert len(set(names)) == num_categories and names == sorted(names)
    assert [category.id for category in categories] == list(range(1, num_categories + 1))
    assert sorted(category.rank for category in categories) == list(range(1, num_categories + 1))
    if num_categories >= 100:
        for part in ("shape", "hue", "texture"):
            assert min(Counter(getattr(c, part) for c in categories).values()) >= 2
        # An id says nothing about the rank.
        assert abs(np.corrcoef(range(num_categories), [c.rank for c in categories])[0, 1]) < 0.3


def test_every_tail_category_has_a_look_alike_in_the_head():
    categories = make_vocabulary(200, np.random.default_rng(0))
    blocks = defaultdict(list)
    for category in categories:
        (shapes,) = (family for family in SHAPE_FAMILIES if category.shape in family)
        (hues,) = (family for family in HUE_FAMILIES if category.hue in family)
        blocks[shapes, hues, category.texture].append(category)
    assert len(blocks) == 50
    for members in blocks.values():
        assert len(members) == 4
        assert len({c.shape for c in members}) == len({c.hue for c in members}) == 2
        assert len({c.texture for c in members}) == 1
        assert sum(category.rank <= 50 for category in members) == 1


def test_ranks_depend_on_the_seed():
    ranks = [
        tuple(c.rank for c in plan_dataset(dataclasses.replace(TINY, seed=seed)).categories)
        for seed in range(3)
    ]
    assert len(set(ranks)) == 3


def test_outlines_have_unit_area():
    for shape in (shape for family in SHAPE_FAMILIES for shape in family):
        radius = shape_outline(shape, 0.5)
        points = np.stack([radius * np.cos(ANGLES), radius * np.sin(ANGLES)], axis=1)
        assert cv2.contourArea(points.astype(np.float32)) == pytest.approx(1, abs=0.03)
        assert radius.min() > 0.1


def test_confusability_brings_look_alikes_together():
    def distances(confusability):
        hue = [abs(np.subtract(*(hue_angle(h, confusability) for h in f))) for f in HUE_FAMILIES]
        shape = [
            np.abs(np.subtract(*(shape_outline(s, confusability) for s in family))).mean()
            for family in SHAPE_FAMILIES
        ]
        return np.array([*hue, *shape, texture_contrast(confusability)])

    apart, between, alike = map(distances, (0, 0.5, 1))
    assert np.all(apart > between) and np.all(between > alike) and np.all(alike > 0)


@pytest.mark.parametrize("part", ["hue", "shape", "texture"])
def test_parts_of_a_name_are_seen_in_the_picture(part):
    """Pixels of objects that differ in one part differ by more than pixels of equal ones."""
    config = MiniLVISConfig(image_size=64)
    base = Category(1, "square", "green", "plain", rank=1)
    other = dataclasses.replace(
        base, **{part: {"hue": "blue", "shape": "star"}.get(part, "dotted")}
    )

    def draw(category):
        image = np.full((64, 64, 3), 128, dtype=np.float32)
        rng = np.random.default_rng(5)
        item = layout._place(32 + 40 * layout._instance_outline(category, config, rng), 64)
        rendering._paint_object(image, category, item, config, rng)
        return image

    np.testing.assert_array_equal(draw(base), draw(base))
    assert np.abs(draw(base) - draw(other)).mean() > 3


# ---------------------------------------------------------------------------------------------
# Reproducibility


def test_same_bytes_whatever_the_number_of_workers(minilvis, tmp_path):
    make_minilvis(tmp_path / "two", TINY, num_workers=2)
    assert files(tmp_path / "two") == files(minilvis)


def test_another_seed_gives_other_images(made, tmp_path):
    other = dataclasses.replace(TINIEST, seed=1)
    make_minilvis(tmp_path / "other", other, num_workers=1)
    first, second = files(made), files(tmp_path / "other")
    assert first.keys() == second.keys()
    assert all(first[name] != second[name] for name in first)


def test_train_and_val_show_different_pictures(minilvis):
    pictures = [data for name, data in files(minilvis).items() if name.endswith(".jpg")]
    assert len(set(pictures)) == len(pictures)


# ---------------------------------------------------------------------------------------------
# The folder


def test_a_finished_set_is_left_alone(made, capsys):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    make_minilvis(made, TINIEST)
    assert "already made" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*")}


def test_another_set_is_replaced_only_by_force(made):
    other = dataclasses.replace(TINIEST, label_rate=0.5)
    before = files(made)
    with pytest.raises(UserError, match=r"label_rate=0.4 instead of 0.5.*--force"):
        make_minilvis(made, other)
    assert files(made) == before
    make_minilvis(made, other, force=True)
    assert json.loads((made / "minilvis.json").read_text())["config"]["label_rate"] == 0.5
    assert [path.name for path in made.parent.iterdir()] == ["set"]


def test_force_makes_a_damaged_set_again(made):
    before = files(made)
    (made / "val" / "000000000021.jpg").write_bytes(b"")
    make_minilvis(made, TINIEST, force=True)
    assert files(made) == before


@pytest.mark.parametrize("force", [False, True])
def test_foreign_folders_are_never_replaced(tmp_path, force):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds files, but no MiniLVIS set"):
        make_minilvis(tmp_path / "set", TINIEST, force=force)
    with pytest.raises(UserError, match="is a file"):
        make_minilvis(tmp_path / "set" / "thesis.tex", TINIEST, force=force)
    assert files(tmp_path) == {"set/thesis.tex": b"years of work"}


def test_foreign_files_in_a_set_are_kept(made):
    (made / "train" / "notes.txt").write_text("mine")
    make_minilvis(made, TINIEST)
    with pytest.raises(UserError, match=r"notes\.txt: is no part of the MiniLVIS set"):
        make_minilvis(made, dataclasses.replace(TINIEST, seed=1), force=True)
    assert (made / "train" / "notes.txt").read_text() == "mine"


def test_a_cache_of_annotations_is_no_foreign_file(made):
    before = files(made, caches=True)
    read_annotations(str(made / "annotations" / "minilvis_val.json"))
    assert files(made, caches=True) != before
    make_minilvis(made, TINIEST, force=True)
    assert files(made, caches=True) == before


def test_a_set_that_lost_a_file_is_not_called_finished(made):
    lost = made / "train" / "000000000007.jpg"
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(UserError, match=r"000000000007\.jpg: is missing.*1 file.*--force"):
        make_minilvis(made, TINIEST)
    make_minilvis(made, TINIEST, force=True)
    assert lost.read_bytes() == content


@pytest.mark.parametrize(
    "marker",
    ["{", "[]", '{"format_version": 1}', '{"format_version":1,"config":{},"num_objects":{'],
)
def test_a_damaged_marker_is_no_licence_to_replace(made, marker):
    (made / "minilvis.json").write_text(marker)
    with pytest.raises(UserError, match="missing or damaged"):
        make_minilvis(made, TINIEST, force=True)
    with pytest.raises(UserError, match="holds no MiniLVIS set"):
        read_minilvis(made)


def test_options_of_another_version_are_refused(made):
    marker = json.loads((made / "minilvis.json").read_text())
    marker["config"]["flavour"] = 3
    (made / "minilvis.json").write_text(json.dumps(marker))
    with pytest.raises(UserError, match="options that this version does not know"):
        make_minilvis(made, TINIEST, force=True)


def test_an_earlier_format_is_not_taken_for_this_one(made):
    marker = json.loads((made / "minilvis.json").read_text())
    marker["format_version"] = 0
    (made / "minilvis.json").write_text(json.dumps(marker))
    with pytest.raises(UserError, match="format version 0"):
        make_minilvis(made, TINIEST)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch, num_workers):
    class InterruptedBar(folder.tqdm):
        def __iter__(self):
            yield next(self.iterable)
            raise KeyboardInterrupt

    monkeypatch.setattr(folder, "tqdm", InterruptedBar)
    with pytest.raises(KeyboardInterrupt):
        make_minilvis(tmp_path / "a" / "set", TINY, num_workers=num_workers)
    assert list((tmp_path / "a").iterdir()) == []


def test_an_interrupt_keeps_the_set_that_was_to_be_replaced(made, monkeypatch):
    before = files(made)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "annotation_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_minilvis(made, dataclasses.replace(TINIEST, seed=1), force=True)
    assert files(made) == before
    assert [path.name for path in made.parent.iterdir()] == ["set"]


def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(folder, "annotation_file", full)
    with pytest.raises(UserError, match="No space left on device"):
        make_minilvis(tmp_path / "set", TINIEST, num_workers=1)
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    make_minilvis(tmp_path / "data", TINIEST, num_workers=1)
    assert (tmp_path / "data").is_symlink()
    assert (tmp_path / "disk" / "minilvis.json").is_file()


def test_the_folder_is_as_open_as_the_umask_says(tmp_path):
    old = os.umask(0o027)
    try:
        make_minilvis(tmp_path / "set", TINIEST, num_workers=1)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "set").stat().st_mode) == 0o750


# ---------------------------------------------------------------------------------------------
# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_categories": 5}, "num_categories=5 must be between 6 and 1000"),
        ({"num_categories": 1001}, "num_categories=1001"),
        ({"num_categories": "200"}, "num_categories='200' must be a whole number"),
        ({"num_categories": True}, "num_categories=True must be a whole number"),
        ({"num_categories": 12.0}, "num_categories=12.0 must be a whole number"),
        ({"label_rate": 0}, "label_rate=0 must be between"),
        ({"label_rate": 1.5}, "label_rate=1.5"),
        ({"steepness": math.nan}, "steepness=nan"),
        ({"steepness": None}, "steepness=None must be a number"),
        ({"confusability": -0.1}, "confusability=-0.1"),
        ({"image_size": 32}, "image_size=32"),
        ({"seed": -1}, "seed=-1"),
        ({"min_objects": 9, "max_objects": 8}, "max_objects=8 must be at least min_objects=9"),
        ({"image_size": 64, "max_objects": 40}, "do not fit into image_size=64"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        MiniLVISConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train_images": 100}, r"num_train_images=100 leaves no room.* at least 191 images"),
        ({"num_val_images": 20}, "num_val_images=20 leaves no room"),
        ({"categories_per_image": 9}, "categories_per_image=9 is too many for 7 to 12 objects"),
    ],
)
def test_options_that_contradict_one_another_are_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        make_minilvis(tmp_path / "set", MiniLVISConfig(**options))
    assert list(tmp_path.iterdir()) == []


def test_as_many_images_as_the_message_asks_for_are_enough():
    with pytest.raises(UserError):
        plan_dataset(MiniLVISConfig(num_train_images=190))
    assert min(plan_dataset(MiniLVISConfig(num_train_images=191)).image_count) == 2


def test_workers_must_be_positive(tmp_path):
    with pytest.raises(UserError, match="num_workers=0"):
        make_minilvis(tmp_path / "set", TINIEST, num_workers=0)


def test_above_200_categories_textures_tell_them_apart():
    config = MiniLVISConfig(num_categories=330, num_train_images=2000, num_val_images=1000)
    plan = plan_dataset(config)
    shape_and_hue = Counter((c.shape, c.hue) for c in plan.categories)
    assert len(shape_and_hue) == 200 and max(shape_and_hue.values()) == 2
    assert {c.texture for c in plan.categories} == set(TEXTURES)
    scene = render_scene(plan.images["val"][0], plan.categories, config)
    assert scene.owner.max() >= 7


# ---------------------------------------------------------------------------------------------
# The tool


def run_tool(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["make_minilvis.py", *map(str, arguments)])
    monkeypatch.setenv("MMDET_EQL_REGISTER", "on")  # the tool sets it
    handler = signal.getsignal(signal.SIGTERM)
    try:
        runpy.run_path(str(TOOL), run_name="__main__")
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_tool_passes_every_option_on(tmp_path, monkeypatch, capsys):
    options = {
        "num_categories": 8,
        "num_train_images": 30,
        "num_val_images": 12,
        "image_size": 72,
        "min_objects": 5,
        "max_objects": 9,
        "categories_per_image": 3.5,
        "steepness": 1.25,
        "label_rate": 0.5,
        "confusability": 0.75,
        "negatives_per_image": 2.5,
        "not_exhaustive_per_image": 0.25,
        "seed": 4,
        "image_counts": (9, 7, 5, 4, 3, 2, 2, 1),
    }
    config = MiniLVISConfig(**options)
    changed = {f.name for f in dataclasses.fields(config) if getattr(config, f.name) != f.default}
    assert changed == set(options) == {field.name for field in dataclasses.fields(config)}
    arguments = []
    for name, value in options.items():
        if name == "image_counts":
            value = tmp_path / "counts.json"
            value.write_text(json.dumps(options[name]))
        arguments += [f"--{name.replace('_', '-')}", value]
    run_tool(monkeypatch, tmp_path / "set", *arguments, "--workers", 1)
    marker = json.loads((tmp_path / "set" / "minilvis.json").read_text())
    assert MiniLVISConfig(**marker["config"]) == config
    path = tmp_path / "set" / "annotations" / "minilvis_train.json"
    run_tool(monkeypatch, tmp_path / "set", *arguments)
    assert "already made with these options" in (output := capsys.readouterr().out)
    assert f"class_frequency.py {path}\n" in output and path.is_file()
    for content in ("{}", "[1"):
        (tmp_path / "counts.json").write_text(content)
        with pytest.raises(SystemExit):
            run_tool(monkeypatch, tmp_path / "set", *arguments)
        assert "counts.json" in capsys.readouterr().err


def test_tool_tells_user_errors_in_one_line(made, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run_tool(monkeypatch, made, "--seed", 9)
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ") and output.err.count("\n") == 1
    assert "--force" in output.err


def test_tool_makes_the_folder_that_the_configs_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MMDET_EQL_DATA", str(tmp_path))
    run_tool(
        monkeypatch,
        *("--num-categories", 6, "--num-train-images", 20, "--num-val-images", 10),
        *("--image-size", 64),
    )
    assert (tmp_path / "minilvis" / "minilvis.json").is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_tool_ended_by_a_signal_leaves_nothing_behind(tmp_path, number):
    options = ["--num-categories", "20", "--num-train-images", "1000", "--workers", "2"]
    command = [sys.executable, str(TOOL), str(tmp_path / "set"), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while not list(tmp_path.glob(".set.*/new/train/*.jpg")):
            assert process.poll() is None, "the tool ended before it drew an image"
            time.sleep(0.1)
        # As a terminal does: to the tool and to its workers.
        os.killpg(process.pid, number)
        assert process.wait(timeout=60) in (-number, 128 + number)
    finally:
        process.kill()
    assert list(tmp_path.iterdir()) == []
