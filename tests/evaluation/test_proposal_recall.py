import numpy as np
import pytest
from mmdet.evaluation.functional.bbox_overlaps import bbox_overlaps
from mmdet.evaluation.functional.recall import _recalls

from mmdet_eql.evaluation import proposal_recall, read_ground_truth, read_results
from mmdet_eql.evaluation.lvis_evaluation import IOU_THRESHOLDS
from tests.evaluation.federated_sets import make_federated_set, save


def corners(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def mmdet_recall(truth, proposals, nums):
    """The judge: mmdet's own matching.

    Its ``eval_recalls`` around it stacks the matrices of all images with ``np.array``, which NumPy
    1.24 refuses for matrices of different shapes; they are put in place one by one here.
    """
    ious = np.empty(len(truth.image_ids), dtype=object)
    for image in range(len(ious)):
        of_image = np.flatnonzero(proposals.image == image)
        best = of_image[np.argsort(-proposals.score[of_image], kind="stable")][: max(nums)]
        objects = truth.boxes[(truth.image == image) & ~truth.ignore]
        ious[image] = np.zeros((len(objects), len(best)))
        if ious[image].size:
            ious[image] = bbox_overlaps(corners(objects), corners(proposals.boxes[best]))
    return _recalls(ious, np.array(nums), IOU_THRESHOLDS)


@pytest.mark.parametrize("seed", range(8))
def test_recall_agrees_with_mmdet(seed, tmp_path):
    ann_file, results_file = save(tmp_path, *make_federated_set(seed))
    truth = read_ground_truth(ann_file)
    proposals = read_results(results_file, truth, "bbox")
    nums = (1, 5, 50, 1000)
    ours = proposal_recall(truth, proposals, nums, IOU_THRESHOLDS)
    theirs = mmdet_recall(truth, proposals, nums)
    # mmdet's IoUs are float32: one at a threshold may fall on the other side of it.
    assert np.abs(ours - theirs).max() <= 2 / len(truth.area)
    np.testing.assert_allclose(ours.mean(), theirs.mean(), atol=1e-3)
    assert (np.diff(ours.mean(axis=1)) >= 0).all()


def test_every_object_found(tmp_path):
    data, _ = make_federated_set(0)
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1}
        for a in data["annotations"]
    ]
    ann_file, results_file = save(tmp_path, data, results)
    truth = read_ground_truth(ann_file)
    proposals = read_results(results_file, truth, "bbox")
    assert (proposal_recall(truth, proposals, [1000], IOU_THRESHOLDS) == 1).all()


def test_no_objects_and_no_proposals(tmp_path):
    data, results = make_federated_set(0)
    ann_file, results_file = save(tmp_path, data, [])
    truth = read_ground_truth(ann_file)
    nothing = read_results(results_file, truth, "bbox")
    assert (proposal_recall(truth, nothing, [10], IOU_THRESHOLDS) == 0).all()

    data["annotations"] = []
    ann_file, results_file = save(tmp_path, data, results)
    truth = read_ground_truth(ann_file)
    proposals = read_results(results_file, truth, "bbox")
    assert (proposal_recall(truth, proposals, [10], IOU_THRESHOLDS) == -1).all()
