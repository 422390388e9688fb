"""Weighted box fusion of result files: its sums, its files, and lvis-api's opinion of them."""

import json
import sys
import warnings

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdet_eql.evaluation import LVISDetections
from mmdet_eql.evaluation.result_fusion import FusionConfig, fuse_files, fuse_image
from mmdet_eql.utils.errors import UserError
from tests.evaluation.federated_sets import judge, make_federated_set

SIZE = (40, 60)  # height, width


def detections_of(*rows, masks=None) -> LVISDetections:
    """Rows of x, y, width, height, score, category."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    category = table[:, 5].astype(np.int64)
    return LVISDetections(np.zeros_like(category), category, table[:, 4], table[:, :4], masks)


def config_of(num_models=2, **options) -> FusionConfig:
    options.setdefault("weights", (1.0,) * num_models)
    return FusionConfig(**options)


def encode(*bitmaps) -> np.ndarray:
    masks = np.empty(len(bitmaps), dtype=object)
    for index, bitmap in enumerate(bitmaps):
        masks[index] = mask_utils.encode(np.asfortranarray(bitmap.astype(np.uint8)))["counts"]
    return masks


def decode(counts) -> np.ndarray:
    return mask_utils.decode({"size": list(SIZE), "counts": counts}).astype(bool)


def rectangle(x, y, width, height) -> np.ndarray:
    bitmap = np.zeros(SIZE, dtype=bool)
    bitmap[y : y + height, x : x + width] = True
    return bitmap


# --- an image -------------------------------------------------------------------------------------


def test_overlapping_boxes_become_their_mean_by_score():
    fused = fuse_image(
        [detections_of((10, 10, 20, 20, 0.6, 3)), detections_of((12, 10, 20, 20, 0.2, 3))],
        SIZE,
        config_of(),
    )
    np.testing.assert_allclose(fused.boxes, [[10.5, 10, 20, 20]], atol=1e-4)
    np.testing.assert_allclose(fused.score, [0.4], atol=1e-6)
    assert fused.category.tolist() == [3]


def test_weights_count():
    fused = fuse_image(
        [detections_of((10, 10, 20, 20, 0.6, 3)), detections_of((12, 10, 20, 20, 0.2, 3))],
        SIZE,
        config_of(weights=(1.0, 3.0)),
    )
    np.testing.assert_allclose(fused.boxes, [[11, 10, 20, 20]], atol=1e-4)
    np.testing.assert_allclose(fused.score, [(0.6 + 3 * 0.2) / 4], atol=1e-6)


def test_disjoint_boxes_and_other_categories_stay_and_lose_score():
    fused = fuse_image(
        [
            detections_of((0, 0, 10, 10, 0.8, 1)),
            detections_of((0, 0, 10, 10, 0.6, 2), (30, 20, 10, 10, 0.4, 1)),
        ],
        SIZE,
        config_of(),
    )
    np.testing.assert_allclose(fused.score, [0.4, 0.3, 0.2])
    assert fused.category.tolist() == [1, 2, 1]
    np.testing.assert_allclose(fused.boxes, [[0, 0, 10, 10], [0, 0, 10, 10], [30, 20, 10, 10]])


@st.composite
def separate_detections(draw):
    """Detections of one model, none of which overlaps another of its category by more than half."""
    count = draw(st.integers(0, 8))
    cells = draw(st.permutations(range(8)))[:count]
    rows = []
    for cell in cells:
        x, y = 15 * (cell % 4), 20 * (cell // 4)
        width, height = draw(st.integers(5, 15)), draw(st.integers(5, 20))
        score = draw(st.sampled_from([0.1, 0.25, 0.5]) | st.floats(0.01, 1))
        rows.append((x, y, width, height, score, draw(st.integers(0, 2))))
    return rows


@settings(max_examples=60, deadline=None)
@given(separate_detections(), st.integers(2, 4))
def test_identical_models_give_themselves(rows, num_models):
    masks = encode(*(rectangle(*row[:4]) for row in rows))
    model = detections_of(*rows, masks=masks)
    fused = fuse_image([model] * num_models, SIZE, config_of(num_models))
    assert len(fused.score) == len(rows)
    assert (fused.score[:-1] >= fused.score[1:]).all()

    def as_set(detections):
        return sorted(
            (category, counts, round(score, 5), *np.round(box, 2).tolist())
            for category, counts, score, box in zip(
                detections.category.tolist(), detections.masks, detections.score.tolist(),
                detections.boxes, strict=True,
            )
        )  # fmt: skip

    assert as_set(fused) == as_set(model)


def test_the_best_are_kept_and_ties_are_settled_alike():
    rng = np.random.default_rng(0)
    rows = [
        (x, y, 4, 4, score, 0)
        for x, y, score in zip(
            *rng.permutation([(x, y) for x in range(0, 56, 5) for y in range(0, 36, 5)]).T,
            rng.integers(1, 4, 96) / 4,
            strict=True,
        )
    ]
    models = [detections_of(*rows[:50]), detections_of(*rows[50:])]
    fused = fuse_image(models, SIZE, config_of(max_per_image=30))
    assert len(fused.score) == 30
    scores = np.sort([row[4] for row in rows])[::-1]
    np.testing.assert_allclose(fused.score, scores[:30] / 2)
    again = fuse_image(models, SIZE, config_of(max_per_image=30))
    assert np.array_equal(again.boxes, fused.boxes)


def test_what_has_no_area_or_score_is_left_out_quietly():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fused = fuse_image(
            [
                detections_of((10, 10, 0, 20, 0.6, 3), (5, 5, 10, 10, 0.0, 1)),
                # The last one reaches beyond the image on all sides.
                detections_of((60, 10, 5, 5, 0.5, 3), (-5, -4, 80, 90.1, 0.3, 2)),
            ],
            SIZE,
            config_of(),
        )
        assert fuse_image([detections_of(), detections_of()], SIZE, config_of()).score.size == 0
    np.testing.assert_allclose(fused.boxes, [[0, 0, 60, 40]])
    np.testing.assert_allclose(fused.score, [0.15])


def test_masks_are_averaged_or_the_best():
    bitmaps = [rectangle(10, 10, 20, 20), rectangle(12, 10, 20, 20), rectangle(11, 12, 20, 20)]
    boxes = [(10, 10, 20, 20), (12, 10, 20, 20), (11, 12, 20, 20)]
    scores = (0.5, 0.5, 0.9)

    def fuse(**options):
        models = [
            detections_of((*box, score, 0), masks=encode(bitmap))
            for box, score, bitmap in zip(boxes, scores, bitmaps, strict=True)
        ]
        (counts,) = fuse_image(models, SIZE, config_of(3, **options)).masks
        return decode(counts)

    mean = sum(score * bitmap for score, bitmap in zip(scores, bitmaps, strict=True)) / sum(scores)
    assert np.array_equal(fuse(), mean >= 0.5)
    assert np.array_equal(fuse(masks="best"), bitmaps[2])
    assert np.array_equal(fuse(masks="best", weights=(2.0, 1.0, 1.0)), bitmaps[0])
    # So heavy that the others do not matter.
    assert np.array_equal(fuse(weights=(1.0, 90.0, 1.0)), bitmaps[1])


def test_masks_that_share_no_pixel():
    """Three thirds of a box: none has half of the weight anywhere."""
    parts = [rectangle(10, 10, 30, 10), rectangle(10, 20, 30, 10), rectangle(10, 30, 30, 10)]
    frame = rectangle(10, 10, 30, 30) & ~rectangle(11, 11, 28, 28)
    corners = [part & frame for part in parts]
    models = [
        detections_of((10, 10, 30, 30, score, 0), masks=encode(bitmap))
        for score, bitmap in zip((0.3, 0.5, 0.4), corners, strict=True)
    ]
    (counts,) = fuse_image(models, SIZE, config_of(3)).masks
    assert np.array_equal(decode(counts), corners[1])


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def federated(tmp_path):
    """An annotation file, and three result files of the same kind for it."""

    def make(masks: bool):
        data, records = make_federated_set(0, masks=masks)
        ann_file = tmp_path / "ann.json"
        ann_file.write_text(json.dumps(data))
        paths = []
        for model in range(3):
            rng = np.random.default_rng(model)
            scores = [record["score"] * rng.uniform(0.8, 1) for record in records]
            rescored = [
                {**record, "score": score} for record, score in zip(records, scores, strict=True)
            ]
            paths.append(tmp_path / f"{model}.json")
            paths[-1].write_text(json.dumps(rescored))
        return ann_file, paths

    return make


def test_lvis_api_takes_merged_boxes(federated, tmp_path):
    ann_file, paths = federated(False)
    out = tmp_path / "merged.json"
    fuse_files([str(path) for path in paths], str(ann_file), str(out), config_of(3))
    merged = judge(ann_file, out, "bbox").results
    alone = judge(ann_file, paths[0], "bbox").results
    assert merged["AP"] > 0
    assert abs(merged["AP50"] - alone["AP50"]) < 0.2


def test_the_tool_merges_masks_for_lvis_api(federated, call_tool, tmp_path):
    ann_file, paths = federated(True)
    out = tmp_path / "new" / "merged.json"
    result = call_tool(
        "misc/merge_results.py", *paths, "--ann-file", ann_file, "-o", out,
        "--max-per-image", 20, "--num-workers", 2, check=True,
    )  # fmt: skip
    assert str(out) in result.stdout
    records = json.loads(out.read_text())
    assert "bbox" not in records[0]
    per_image = np.unique([record["image_id"] for record in records], return_counts=True)[1]
    assert per_image.max() == 20
    assert judge(ann_file, out, "segm").results["AP"] > 0
    # One process writes the same file.
    again = tmp_path / "again.json"
    config = config_of(3, max_per_image=20)
    fuse_files([str(path) for path in paths], str(ann_file), str(again), config)
    assert again.read_bytes() == out.read_bytes()


def test_a_file_merged_with_itself(federated, tmp_path):
    ann_file, paths = federated(True)
    out = tmp_path / "merged.json"
    # Its own boxes, some of which are equal, must not be merged: they overlap by 1 at most.
    config = config_of(2, iou_threshold=0.999999)
    read, written = fuse_files([str(paths[0])] * 2, str(ann_file), str(out), config)
    assert read == 2 * len(json.loads(paths[0].read_text()))
    assert 0 < written <= read / 2


def test_an_empty_file_and_a_file_of_test_images(federated, tmp_path):
    ann_file, paths = federated(False)
    data = json.loads(ann_file.read_text())
    del data["annotations"]
    for image in data["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    ann_file.write_text(json.dumps(data))
    record = json.loads(paths[0].read_text())[0]
    paths[0].write_text(json.dumps([record]))
    paths[1].write_text("[]\n")
    out = tmp_path / "merged.json"
    with pytest.warns(UserWarning, match=f"{paths[0]}: has no detection in"):
        fuse_files([str(path) for path in paths[:2]], str(ann_file), str(out), config_of())
    (fused,) = json.loads(out.read_text())
    assert fused["image_id"] == record["image_id"]
    assert fused["score"] == pytest.approx(record["score"] / 2)


def bad_files(federated, tmp_path):
    ann_file, paths = federated(True)
    return ann_file, [str(path) for path in paths], tmp_path / "merged.json"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda records: {"results": records}, "not a JSON list"),
        (lambda records: [{**records[0], "image_id": 10**6}, *records[1:]], "image_id"),
        (lambda records: [{**records[0], "score": None}, *records[1:]], "score"),
        (lambda records: [{**one, "score": 100 * one["score"]} for one in records], "percent"),
        (
            lambda records: [
                {
                    "image_id": record["image_id"],
                    "category_id": record["category_id"],
                    "score": record["score"],
                    "bbox": [1, 2, 3, 4],
                }
                for record in records
            ],
            "merge files of one kind",
        ),
        (
            lambda records: [
                {**records[0], "segmentation": {**records[0]["segmentation"], "counts": "11"}},
                *records[1:],
            ],
            "a detected mask of",
        ),
    ],
)
def test_bad_files_are_one_sentence(edit, words, federated, tmp_path):
    ann_file, paths, out = bad_files(federated, tmp_path)
    with open(paths[1]) as file:
        records = json.load(file)
    with open(paths[1], "w") as file:
        json.dump(edit(records), file)
    with pytest.raises(UserError, match=words) as error:
        fuse_files(paths, str(ann_file), str(out), config_of(3))
    assert paths[1] in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*merged*"))


def test_other_mistakes_are_one_sentence(federated, tmp_path, monkeypatch):
    ann_file, paths, out = bad_files(federated, tmp_path)
    for arguments, words in (
        ((paths[:1], ann_file, out, config_of(1)), "two or more"),
        ((paths, ann_file, out, config_of(2)), "2 numbers for 3"),
        (([paths[0], "gone.json"], ann_file, out, config_of(2)), "gone.json: no such result"),
        ((paths, "gone.json", out, config_of(3)), "gone.json: no such annotation"),
        ((paths, ann_file, tmp_path, config_of(3)), "cannot be written .*--out"),
    ):
        with pytest.raises(UserError, match=words):
            fuse_files(arguments[0], *map(str, arguments[1:3]), arguments[3])
    for options, words in (
        (dict(weights=(1.0, 0.0)), "no weight"),
        (dict(weights=(1.0, float("nan"))), "no weight"),
        (dict(iou_threshold=1.0), "between 0 and 1"),
        (dict(max_per_image=0), "less than 1"),
        (dict(masks="worst"), "neither"),
    ):
        with pytest.raises(UserError, match=words):
            config_of(**options)
    monkeypatch.setitem(sys.modules, "ensemble_boxes", None)
    with pytest.raises(UserError, match=r"requirements/merge\.txt"):
        fuse_files(paths, str(ann_file), str(out), config_of(3))
