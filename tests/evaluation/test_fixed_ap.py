"""Fixed AP, pooled AP and Boundary AP beside naive implementations on top of lvis-api."""

from collections import defaultdict
from unittest import mock

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest

from mmdet_eql.evaluation import compare_files
from mmdet_eql.utils.errors import UserError
from tests.evaluation.federated_sets import evaluate_files, make_federated_set, save


def best_records(results, number):
    by_category = defaultdict(list)
    for record in results:
        by_category[record["category_id"]].append(dict(record))
    return [
        record
        for records in by_category.values()
        for record in sorted(records, key=lambda one: one["score"], reverse=True)[:number]
    ]


def naive(ann_file, results, iou_type, max_dets=300, boundary=False):
    """lvis-api, run on records."""
    from lvis import LVIS, LVISEval, LVISResults

    with mock.patch.object(np, "float", float, create=True):
        truth = LVIS(ann_file)
        evaluation = LVISEval(truth, LVISResults(truth, results, max_dets=max_dets), iou_type)
        evaluation.params.max_dets = max_dets
        if boundary:
            compute = evaluation.compute_iou

            def lower_iou(image_id, category_id):
                of_masks = compute(image_id, category_id)
                masks = evaluation._get_gt_dt(image_id, category_id)
                objects, found = masks[0], sorted(masks[1], key=lambda one: -one["score"])
                if not objects or not found:
                    return of_masks
                sides = [
                    [boundary_of(one["segmentation"]) for one in of] for of in (found, objects)
                ]
                return np.minimum(of_masks, mask_utils.iou(*sides, [0] * len(objects)))

            evaluation.compute_iou = lower_iou
        evaluation.run()
    return evaluation


def boundary_of(rle):
    """The whole image, eroded pixel by pixel."""
    mask = mask_utils.decode(rle)
    times = max(1, round(0.02 * np.sqrt(mask.shape[0] ** 2 + mask.shape[1] ** 2)))
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=times)[1:-1, 1:-1]
    return mask_utils.encode(np.asfortranarray(mask - eroded))


def naive_pooled(evaluation, groups):
    """AP of one precision-recall curve of some categories, from the matches of lvis-api."""
    params = evaluation.params
    num_areas, num_images = len(params.area_rng), len(params.img_ids)
    parts = [
        evaluation.eval_imgs[category * num_areas * num_images + image]
        for image in range(num_images)
        for category in groups
    ]
    parts = [part for part in parts if part is not None]
    num_objects = sum(int((np.array(part["gt_ignore"]) == 0).sum()) for part in parts)
    if not num_objects:
        return -1
    scores = np.concatenate([part["dt_scores"] for part in parts])
    order = np.argsort(-scores, kind="mergesort")
    matched = np.concatenate([part["dt_matches"] for part in parts], axis=1)[:, order] > 0
    ignored = np.concatenate([part["dt_ignore"] for part in parts], axis=1)[:, order] > 0
    total = []
    for hit, ignore in zip(matched, ignored, strict=True):
        true, false = np.cumsum(hit & ~ignore), np.cumsum(~hit & ~ignore)
        precision = (true / (true + false + np.spacing(1))).tolist()
        for index in range(len(precision) - 1, 0, -1):
            precision[index - 1] = max(precision[index - 1], precision[index])
        at = np.searchsorted(true / num_objects, params.rec_thrs, side="left")
        total += [precision[index] if index < len(precision) else 0 for index in at]
    return np.mean(total)


def of_kind(metrics, kind):
    return {k.removeprefix(kind): v for k, v in metrics.items() if k.startswith(kind)}


def assert_fixed(ann_file, path, results, iou_type, number, boundary=False):
    (file,) = compare_files(ann_file, [path], iou_type, fixed_ap=number, pooled_ap=number)
    best = best_records(results, number)
    theirs = naive(ann_file, best, "bbox" if iou_type == "bbox" else "segm", -1, boundary)
    expected = {name: value for name, value in theirs.results.items() if "@" not in name}
    assert of_kind(file.metrics, "fixed_") == pytest.approx(expected, rel=0, abs=1e-9)
    pools = {"AP": range(len(theirs.params.cat_ids))}
    pools |= {f"AP{g}": theirs.freq_groups[i] for i, g in enumerate("rcf")}
    pooled = of_kind(file.metrics, "pooled_")
    for name, pool in pools.items():
        assert pooled[name] == pytest.approx(naive_pooled(theirs, pool), rel=0, abs=1e-9), name


@pytest.mark.filterwarnings("ignore:.*categories have fewer")
@pytest.mark.parametrize(("seed", "number"), enumerate([5, 40, 10_000] * 3))
def test_fixed_and_pooled_ap_of_boxes(seed, number, tmp_path):
    data, results = make_federated_set(seed)
    assert_fixed(*save(tmp_path, data, results), results, "bbox", number)


@pytest.mark.filterwarnings("ignore:.*categories have fewer")
@pytest.mark.parametrize("seed", range(4))
def test_fixed_and_pooled_ap_of_masks(seed, tmp_path):
    data, results = make_federated_set(seed, masks=True)
    assert_fixed(*save(tmp_path, data, results), results, "segm", 30)


@pytest.mark.filterwarnings("ignore:.*categories have fewer")
@pytest.mark.parametrize("seed", range(6))
def test_boundary_ap(seed, tmp_path):
    data, results = make_federated_set(seed, num_images=8, masks=True)
    ann_file, path = save(tmp_path, data, results)
    ours = evaluate_files(ann_file, path, "boundary")
    theirs = naive(ann_file, path, "segm", boundary=True)
    np.testing.assert_allclose(ours.precision, theirs.eval["precision"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours.recall, theirs.eval["recall"], rtol=0, atol=1e-9)
    assert ours.metrics() == pytest.approx(dict(theirs.results), rel=0, abs=1e-9)
    assert ours.metrics() != evaluate_files(ann_file, path, "segm").metrics()
    if seed == 0:
        assert_fixed(ann_file, path, results, "boundary", 30, boundary=True)


def test_categories_with_few_detections_are_counted(tmp_path):
    data, results = make_federated_set(1)
    number = max(np.unique([r["category_id"] for r in results], return_counts=True)[1]) - 1
    files = save(tmp_path, data, results)
    for option in ({"fixed_ap": True}, {"pooled_ap": True}):
        with pytest.warns(
            UserWarning, match="9 of the 9 categories have fewer than 10,000 detecti"
        ):
            compare_files(files[0], [files[1]], **option)
    with pytest.raises(UserError, match="'fixed_ap' is 0; give True for 10,000, a whole number"):
        compare_files(files[0], [files[1]], fixed_ap=0)
    with pytest.warns(
        UserWarning, match=rf"{files[1]}: 8 of the 9 categories have fewer .* {number:,} d"
    ):
        compare_files(files[0], [files[1]], fixed_ap=number)
