"""A test for Fixed AP beside the best of all detections that the model can give."""

import functools
import json

import pytest
from mmengine.evaluator import Evaluator

from mmdet_eql.engine import launch
from mmdet_eql.evaluation import best_predictions
from mmdet_eql.evaluation.lvis_metric import LVISFastMetric
from mmdet_eql.heads import fixed_ap_test_hook
from tests.conftest import log_of
from tests.heads.test_detectors import make_config

#: Detections of a category, and of an image, that count.
NUMBER, PER_IMAGE = 5, 6


@pytest.fixture(scope="module")
def val_file(minilvis, tmp_path_factory):
    """Four validation images."""
    path = tmp_path_factory.mktemp("val") / "val.json"
    data = json.loads((minilvis / "annotations" / "minilvis_val.json").read_text())
    data["images"] = data["images"][:4]
    ids = {image["id"] for image in data["images"]}
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] in ids]
    path.write_text(json.dumps(data))
    return str(path)


def make_runner(detector, minilvis, val_file, work_dir):
    cfg = make_config(detector, "sigmoid", minilvis)
    cfg.work_dir = str(work_dir / "work_dir")
    cfg.experiment_name = work_dir.name
    cfg.launcher = "none"
    cfg.model.test_cfg.rpn.max_per_img = 10
    cfg.model.test_cfg.rcnn.update(max_per_img=PER_IMAGE, score_thr=0.05)
    cfg.test_dataloader.dataset.ann_file = cfg.test_evaluator.ann_file = val_file
    cfg.test_evaluator.max_detections = PER_IMAGE
    return launch.build_runner(cfg, "test")


def best_records(path, key, number):
    """The best records of each category or image, in order; earlier ones of equal scores."""
    groups = {}
    for record in json.loads(path.read_text()):
        groups.setdefault(record[key], []).append(record)
    return {
        group: sorted(records, key=lambda record: -record["score"])[:number]
        for group, records in groups.items()
    }


@pytest.mark.filterwarnings("ignore:.*categories have fewer")
@pytest.mark.parametrize("detector", ["mask-rcnn", "htc"])
def test_nothing_that_counts_is_left_out(detector, minilvis, val_file, tmp_path, monkeypatch):
    monkeypatch.setattr(best_predictions, "_LEAST", 10)
    monkeypatch.setattr(fixed_ap_test_hook, "_MASKS_AT_ONCE", 10)
    runner = make_runner(detector, minilvis, val_file, tmp_path)
    roi_head = runner.model.roi_head
    before = dict(roi_head.test_cfg)
    num_masks = []
    counted = type(roi_head).predict_mask

    @functools.wraps(counted)
    def predict_mask(self, *args, **kwargs):
        results = counted(self, *args, **kwargs)
        num_masks.append(len(results[0]))
        return results

    monkeypatch.setattr(type(roi_head), "predict_mask", predict_mask)

    def run(name, **options):
        prefix = str(tmp_path / name)
        options.update(outfile_prefix=prefix)
        runner.test_loop.evaluator = Evaluator(LVISFastMetric(val_file, "segm", **options))
        return runner.test()

    # AP is of the model's own max_per_img, though the metric would take 300.
    metrics = run("best", fixed_ap=NUMBER, pooled_ap=NUMBER - 1, bootstrap=5)
    assert {"lvis/segm_fixed_AP", "lvis/segm_pooled_AP"} <= metrics.keys()
    assert max(num_masks) == 10
    of_best = sum(num_masks)
    assert dict(roi_head.test_cfg) == before
    assert "predict_mask" not in vars(roi_head)
    assert metrics["lvis/segm_AP"] >= 0
    roi_head.test_cfg.update(score_thr=1e-7, max_per_img=100_000)
    of_all = run("all", max_detections=PER_IMAGE, bootstrap=5)
    assert of_best < 0.9 * (sum(num_masks) - of_best)
    for kind in ("bbox", "segm"):
        every, best = (tmp_path / f"{name}.{kind}.json" for name in ("all", "best"))
        for key, number in (("category_id", NUMBER), ("image_id", PER_IMAGE)):
            expected = best_records(every, key, number)
            assert min(map(len, expected.values())) == number
            assert best_records(best, key, number) == expected
    assert {name: metrics[name] for name in of_all} == of_all


def test_a_model_without_thresholds_is_tested_as_it_is(minilvis, val_file, tmp_path):
    runner = make_runner("mask-rcnn", minilvis, val_file, tmp_path)
    hook = fixed_ap_test_hook.FixedAPTestHook()
    runner.test_loop.evaluator = Evaluator(LVISFastMetric(val_file, fixed_ap=True))
    runner.model.roi_head.mask_iou_head = None
    log = log_of(lambda: hook.before_test(runner))
    assert "WARNING Fixed AP and pooled AP are of what the model's test_cfg lets through" in log
    runner.model.roi_head = None
    assert "for two-stage detectors" in log_of(lambda: hook.before_test(runner))
    hook.after_test(runner)
