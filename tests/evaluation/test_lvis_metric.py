import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from mmdet_eql.evaluation import compare_files, lvis_metric
from mmdet_eql.evaluation.lvis_metric import LVISFastMetric
from mmdet_eql.utils.errors import UserError
from tests.evaluation.federated_sets import evaluate_files, judge, make_federated_set, save

# A set with a crowded image.
SEED = 11
AP_ITEMS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]
AR_ITEMS = ["AR@300", "ARs@300", "ARm@300", "ARl@300"]


def make_samples(data, records, masks="bitmaps", seed=0):
    """Data samples as mmdet's test loop hands them to a metric, float32 and all.

    Args:
        data (dict): Content of the annotation file.
        records (list[dict]): Boxes, as in a result file.
        masks (str | None): 'bitmaps', 'rle' or None.
        seed (int): Seed of the masks.
    """
    rng = np.random.default_rng(seed)
    category_ids = sorted(category["id"] for category in data["categories"])
    samples = []
    for image in data["images"]:
        of_image = [record for record in records if record["image_id"] == image["id"]]
        boxes = np.array([record["bbox"] for record in of_image], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        pred = {
            "bboxes": torch.tensor(boxes, dtype=torch.float32),
            "scores": torch.tensor([record["score"] for record in of_image], dtype=torch.float32),
            "labels": torch.tensor(
                [category_ids.index(record["category_id"]) for record in of_image],
                dtype=torch.int64,
            ),
        }
        if masks:
            size = (image["height"], image["width"])
            bitmaps = np.zeros((len(boxes), *size), dtype=bool)
            for bitmap, (x1, y1, x2, y2) in zip(bitmaps, boxes.round().astype(int), strict=True):
                bitmap[max(y1, 0) : y2, max(x1, 0) : x2] = True
            bitmaps &= rng.random(bitmaps.shape) < 0.97
            pred["masks"] = (
                torch.from_numpy(bitmaps) if masks == "bitmaps" else encode_mask_results(bitmaps)
            )
            pred["mask_scores"] = pred["scores"] * torch.tensor(0.7)
        samples.append({"img_id": image["id"], "pred_instances": pred})
    return samples


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    data, _ = make_federated_set(SEED, masks=True)
    _, records = make_federated_set(SEED)
    return save(tmp_path_factory.mktemp("example"), data, records)


@pytest.fixture
def example(files):
    """An annotation file with masks, its content, and records of boxes for it."""
    data, records = (json.loads(Path(file).read_text()) for file in files)
    return files[0], data, records


def evaluate(samples, classes=None, **kwargs):
    metric = LVISFastMetric(**kwargs)
    if classes is not None:
        metric.dataset_meta = {"classes": classes}
    # Two batches.
    metric.process({}, samples[:5])
    metric.process({}, samples[5:])
    return metric.evaluate(len(samples)), metric


@pytest.fixture
def log():
    """Messages of mmengine's logger."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


# --- agreement ------------------------------------------------------------------------------------


@pytest.mark.parametrize("masks", ["bitmaps", "rle"])
def test_figures_agree_with_lvis_api_on_the_files_that_mmdet_would_write(example, masks, tmp_path):
    ann_file, data, records = example
    samples = make_samples(data, records, masks)
    figures, _ = evaluate(
        samples, ann_file=ann_file, metric=["bbox", "segm"], metric_items=AP_ITEMS + AR_ITEMS
    )
    category_ids = sorted(category["id"] for category in data["categories"])
    for iou_type in ("bbox", "segm"):
        written = []
        for sample in make_samples(data, records, "rle"):
            pred = sample["pred_instances"]
            scores = pred["scores"] if iou_type == "bbox" else pred["mask_scores"]
            for index, label in enumerate(pred["labels"].tolist()):
                x1, y1, x2, y2 = pred["bboxes"][index].tolist()
                record = {
                    "image_id": sample["img_id"],
                    "category_id": category_ids[label],
                    "score": scores[index].item(),
                }
                if iou_type == "bbox":
                    record["bbox"] = [x1, y1, x2 - x1, y2 - y1]
                else:
                    rle = pred["masks"][index]
                    record["segmentation"] = {**rle, "counts": rle["counts"].decode()}
                written.append(record)
        _, results_file = save(tmp_path, data, written)
        for name, value in judge(ann_file, results_file, iou_type).results.items():
            assert figures.pop(f"lvis/{iou_type}_{name}") == pytest.approx(value, rel=0, abs=1e-9)
    assert not figures


def test_unrounded_floats_under_the_names_of_mmdet(example):
    ann_file, data, records = example
    figures, metric = evaluate(make_samples(data, records), ann_file=ann_file)
    assert list(figures) == [f"lvis/bbox_{item}" for item in AP_ITEMS]
    assert all(type(value) is float for value in figures.values())
    assert figures["lvis/bbox_AP"] != round(figures["lvis/bbox_AP"], 3)
    assert metric.results == []


def test_built_from_a_config_and_fed_by_the_evaluator(example):
    ann_file, data, records = example
    config = {"type": "LVISFastMetric", "ann_file": ann_file, "prefix": "val"}
    with DefaultScope.overwrite_default_scope("mmdet"):
        evaluator = Evaluator([config])
    evaluator.dataset_meta = {"classes": [c["name"] for c in data["categories"]]}
    by_id = sorted(data["categories"], key=lambda category: category["id"])
    samples = []
    for sample in make_samples(data, records):
        pred = sample["pred_instances"]
        # The classes of this dataset are in the order of the file.
        pred["labels"] = torch.tensor(
            [data["categories"].index(by_id[label]) for label in pred["labels"]], dtype=torch.int64
        )
        samples.append(
            DetDataSample(
                metainfo={"img_id": sample["img_id"]}, pred_instances=InstanceData(**pred)
            )
        )
    evaluator.process(samples)
    figures = evaluator.evaluate(len(samples))
    expected, _ = evaluate(make_samples(data, records), ann_file=ann_file, prefix="val")
    assert figures == expected
    assert "val/bbox_AP" in figures


@pytest.mark.parametrize("iou_thrs", [0.5, [0.5, 0.75], (0.6,)])
def test_iou_thresholds_are_honoured(example, iou_thrs, tmp_path):
    ann_file, data, records = example
    prefix = str(tmp_path / "a")
    samples = make_samples(data, records)
    figures, metric = evaluate(samples, ann_file=ann_file, iou_thrs=iou_thrs, outfile_prefix=prefix)
    thresholds = [iou_thrs] if isinstance(iou_thrs, float) else iou_thrs
    expected = evaluate_files(ann_file, f"{prefix}.bbox.json", "bbox", thresholds)
    np.testing.assert_array_equal(metric.evaluations["bbox"].precision, expected.precision)
    assert len(expected.precision) == len(thresholds)
    assert ("lvis/bbox_AP50" in figures) == (0.5 in thresholds)
    if iou_thrs == 0.5:
        assert figures["lvis/bbox_AP"] == figures["lvis/bbox_AP50"] > 0


def test_ap_of_each_category(example, log, tmp_path):
    ann_file, data, records = example
    prefix = str(tmp_path / "out" / "a")
    figures, metric = evaluate(
        make_samples(data, records),
        ann_file=ann_file,
        metric=["bbox", "segm"],
        classwise=True,
        outfile_prefix=prefix,
    )
    written = json.loads(Path(f"{prefix}.classwise.json").read_text())
    assert written["ann_file"] == ann_file
    by_id = sorted(data["categories"], key=lambda category: category["id"])
    assert [c["id"] for c in written["categories"]] == [c["id"] for c in by_id]
    for iou_type in ("bbox", "segm"):
        values = [figures[f"lvis/{iou_type}_{c['name']}_precision"] for c in by_id]
        np.testing.assert_array_equal(values, metric.evaluations[iou_type].category_ap())
        assert [c[f"{iou_type}_AP"] for c in written["categories"]] == [
            None if np.isnan(value) else value for value in values
        ]
        annotated = [value for value in values if not np.isnan(value)]
        assert 0 < len(annotated) < len(values)
        assert np.mean(annotated) == pytest.approx(figures[f"lvis/{iou_type}_AP"])
        assert any(f"{iou_type} AP (%)" in message for message in log)
    assert [c["frequency"] for c in written["categories"]] == [c["frequency"] for c in by_id]
    assert written["categories"][0]["num_annotations"] == sum(
        ann["category_id"] == by_id[0]["id"] and ann["area"] > 0 for ann in data["annotations"]
    )


def test_summary_is_one_table(example, log):
    ann_file, data, records = example
    figures, _ = evaluate(make_samples(data, records), ann_file=ann_file, metric=["bbox", "segm"])
    (table,) = [message for message in log if "LVIS (%)" in message]
    for iou_type in ("bbox", "segm"):
        (row,) = [line for line in table.splitlines() if f"| {iou_type} " in line]
        assert f"{100 * figures[f'lvis/{iou_type}_AP']:.2f}" in row


def test_the_summary_of_a_coco_file(example, tmp_path, log):
    _, data, records = example
    for image in data["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    for category in data["categories"]:
        del category["frequency"]
    ann_file = tmp_path / "coco.json"
    # Nothing is large.
    data["annotations"] = [a for a in data["annotations"] if a["area"] < 96**2]
    ann_file.write_text(json.dumps(data))
    evaluate(make_samples(data, records), ann_file=str(ann_file), metric="bbox")
    (table,) = [message for message in log if "(%)" in message]
    assert "COCO (%)" in table
    assert "LVIS" not in table
    (row,) = [line for line in table.splitlines() if "| bbox " in line]
    (header,) = [line for line in table.splitlines() if "APl" in line]
    columns = header.split("|")
    assert row.split("|")[[cell.strip() for cell in columns].index("APl")].strip() == "-"
    assert table.splitlines()[-1].startswith("-: nothing is annotated")


@pytest.mark.filterwarnings("ignore:.*categories have fewer")
def test_fixed_pooled_and_boundary_ap_and_intervals(example, tmp_path):
    ann_file, data, records = example
    figures, _ = evaluate(
        make_samples(data, records),
        ann_file=ann_file,
        metric=["bbox", "boundary"],
        outfile_prefix=str(tmp_path / "test"),
        fixed_ap=40,
        pooled_ap=True,
        bootstrap=20,
    )
    for iou_type, kind in (("bbox", "bbox"), ("boundary", "segm")):
        (file,) = compare_files(
            ann_file,
            [str(tmp_path / f"test.{kind}.json")],
            iou_type,
            fixed_ap=40,
            pooled_ap=10_000,
            bootstrap=20,
        )
        expected = {k: v for k, v in file.metrics.items() if "@" not in k}
        for name, ends in file.intervals.items():
            expected[f"{name}_low"], expected[f"{name}_high"] = ends
        expected = {f"lvis/{iou_type}_{name}": value for name, value in expected.items()}
        ours = {name: value for name, value in figures.items() if f"/{iou_type}_" in name}
        assert ours == pytest.approx(expected, abs=1e-12)


# --- result files ---------------------------------------------------------------------------------


def test_format_only_writes_what_lvis_api_reads(example, tmp_path):
    ann_file, data, records = example
    samples = make_samples(data, records)
    prefix = str(tmp_path / "new" / "folder" / "test")
    nothing, _ = evaluate(samples, ann_file=ann_file, format_only=True, outfile_prefix=prefix)
    assert nothing == {}
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["test.bbox.json", "test.segm.json"]
    figures, _ = evaluate(samples, ann_file=ann_file, metric=["bbox", "segm"])
    for iou_type in ("bbox", "segm"):
        theirs = judge(ann_file, f"{prefix}.{iou_type}.json", iou_type).results
        ours = evaluate_files(ann_file, f"{prefix}.{iou_type}.json", iou_type).metrics()
        for item in AP_ITEMS:
            assert theirs[item] == pytest.approx(figures[f"lvis/{iou_type}_{item}"], abs=1e-9)
            assert ours[item] == figures[f"lvis/{iou_type}_{item}"]
    assert set(json.loads(Path(f"{prefix}.bbox.json").read_text())[0]) == {
        "image_id",
        "category_id",
        "bbox",
        "score",
    }
    assert set(json.loads(Path(f"{prefix}.segm.json").read_text())[0]) == {
        "image_id",
        "category_id",
        "segmentation",
        "score",
    }


def test_format_only_needs_no_annotations(example, tmp_path):
    """As in the image list of the test set."""
    ann_file, data, records = example
    samples = make_samples(data, records, masks=None)
    test_file = tmp_path / "image_info_test.json"
    images = [
        {key: image[key] for key in ("id", "height", "width", "file_name")}
        for image in data["images"]
    ]
    test_file.write_text(json.dumps({"images": images, "categories": data["categories"]}))
    prefixes = [str(tmp_path / name) for name in ("val", "test")]
    for file, prefix in zip((ann_file, str(test_file)), prefixes, strict=True):
        evaluate(samples, ann_file=file, format_only=True, outfile_prefix=prefix)
    val, test = (Path(f"{prefix}.bbox.json").read_text() for prefix in prefixes)
    assert val == test
    assert not os.path.exists(f"{prefixes[0]}.segm.json")

    test_file.write_text(json.dumps({"images": images}))
    with pytest.raises(UserError, match=f"{test_file}: field '"):
        evaluate(samples, ann_file=str(test_file), format_only=True, outfile_prefix=prefixes[1])


def test_nothing_found(example, log, tmp_path):
    ann_file, data, _ = example
    prefix = str(tmp_path / "none")
    figures, _ = evaluate(
        make_samples(data, []), ann_file=ann_file, metric=["bbox", "segm"], outfile_prefix=prefix
    )
    assert {figures[f"lvis/{iou_type}_AP"] for iou_type in ("bbox", "segm")} == {0}
    assert set(figures.values()) <= {0, -1}
    assert any("found nothing" in message for message in log)
    for iou_type in ("bbox", "segm"):
        assert json.loads(Path(f"{prefix}.{iou_type}.json").read_text()) == []


def test_no_image_at_all(example):
    figures, _ = evaluate([], ann_file=example[0])
    assert figures["lvis/bbox_AP"] == 0


# --- proposals ------------------------------------------------------------------------------------


def test_recall_of_proposals(example, log, tmp_path):
    """A region proposal network gives every proposal the label 0."""
    ann_file, data, records = example
    samples = make_samples(data, records, masks=None)
    for sample in samples:
        sample["pred_instances"]["labels"].zero_()
    figures, _ = evaluate(samples, ann_file=ann_file, metric="proposal", proposal_nums=(5, 300))
    agnostic = {
        **data,
        "categories": [{"id": 1, "name": "object", "frequency": "f"}],
        "annotations": [{**ann, "category_id": 1} for ann in data["annotations"]],
        "images": [
            {**image, "neg_category_ids": [1], "not_exhaustive_category_ids": []}
            for image in data["images"]
        ],
    }
    agnostic_file, _ = save(tmp_path, agnostic, [])
    prefix = str(tmp_path / "a")
    evaluate(samples, ann_file=agnostic_file, format_only=True, outfile_prefix=prefix)
    expected = {}
    for num in (5, 300):
        theirs = judge(agnostic_file, f"{prefix}.bbox.json", "bbox", max_dets=num).results
        expected.update({f"lvis/{k}": v for k, v in theirs.items() if k.startswith("AR")})
    assert figures == pytest.approx(expected, rel=0, abs=1e-9)
    assert figures["lvis/AR@5"] < figures["lvis/AR@300"]

    fast, _ = evaluate(samples, ann_file=ann_file, metric="proposal_fast", proposal_nums=[5, 300])
    assert list(fast) == ["lvis/AR@5", "lvis/AR@300"]
    # The best match of each object finds at least as much as matching by score.
    assert 0 < fast["lvis/AR@5"] <= fast["lvis/AR@300"]
    assert fast["lvis/AR@300"] == pytest.approx(figures["lvis/AR@300"], abs=0.05)
    assert not any("no image has more than" in message for message in log)
    evaluate(samples, ann_file=ann_file, metric="proposal_fast", proposal_nums=[5, 1000])
    assert any("so that AR@1000 is of" in message for message in log)


def test_settings_of_coco_are_named(log, tmp_path):
    data, records = make_federated_set(SEED, num_images=25)
    more = [{"id": 1000 + i, "name": f"more {i}", "frequency": "r"} for i in range(500)]
    data["categories"] += more
    ann_file, _ = save(tmp_path, data, [])
    above = [{**record, "score": 0.05 + record["score"] / 2} for record in records]
    evaluate(make_samples(data, above, masks=None), ann_file=ann_file)
    assert any("no score is below 0.05" in message for message in log)


def test_chosen_figures_alone_are_returned(example):
    ann_file, data, records = example
    figures, _ = evaluate(
        make_samples(data, records),
        ann_file=ann_file,
        metric=["proposal", "bbox"],
        metric_items=["AP50", "ARs@100", "ARr@300"],
    )
    assert list(figures) == ["lvis/ARs@100", "lvis/bbox_AP50", "lvis/bbox_ARr@300"]


# --- labels, images -------------------------------------------------------------------------------


def test_subset_of_the_categories_by_name(example, log, tmp_path):
    ann_file, data, records = example
    chosen = data["categories"][4:1:-1]
    records = [r for r in records if r["category_id"] in {c["id"] for c in chosen}]
    samples = make_samples(data, records)
    by_id = sorted(data["categories"], key=lambda category: category["id"])
    for sample in samples:
        labels = [chosen.index(by_id[label]) for label in sample["pred_instances"]["labels"]]
        sample["pred_instances"]["labels"] = torch.tensor(labels, dtype=torch.int64)
    prefix = str(tmp_path / "subset")
    figures, metric = evaluate(
        samples,
        classes=tuple(category["name"] for category in chosen),
        ann_file=ann_file,
        outfile_prefix=prefix,
    )
    theirs = judge(ann_file, f"{prefix}.bbox.json", "bbox").eval["precision"][..., 0]
    ids = [category["id"] for category in by_id]
    theirs = theirs[:, :, [ids.index(c) for c in sorted(c["id"] for c in chosen)]]
    np.testing.assert_allclose(metric.evaluations["bbox"].precision[..., 0], theirs, atol=1e-9)
    assert figures["lvis/bbox_AP"] == pytest.approx(theirs[theirs > -1].mean())
    assert any("3 classes" in message for message in log)


def test_unknown_names_are_not_taken_as_positions(example):
    ann_file, data, records = example
    names = [f"other {index}" for index in range(len(data["categories"]))]
    with pytest.raises(UserError, match=r"has none of the classes .*'other 0'.* 4 more"):
        evaluate(make_samples(data, records), classes=names, ann_file=ann_file)


@pytest.mark.parametrize("classes", [None, "file"])
def test_label_out_of_range(example, classes):
    ann_file, data, records = example
    samples = make_samples(data, records)
    samples[1]["pred_instances"]["labels"][:] = len(data["categories"])
    if classes:
        classes = [category["name"] for category in data["categories"]]
    with pytest.raises(UserError, match=rf"{ann_file}: .* label 9.* 9 classes; the model is"):
        evaluate(samples, classes=classes, ann_file=ann_file)


def test_images_of_another_file(example):
    ann_file, data, records = example
    samples = make_samples(data, records)
    samples[2]["img_id"] = 12345
    with pytest.raises(UserError, match=f"{ann_file}: has no image 12345"):
        evaluate(samples, ann_file=ann_file)


def test_masks_of_another_size(example):
    ann_file, data, records = example
    samples = make_samples(data, records)
    pred = next(s["pred_instances"] for s in samples if len(s["pred_instances"]["labels"]))
    pred["masks"] = torch.zeros((len(pred["labels"]), 3, 5), dtype=torch.bool)
    evaluate(samples, ann_file=ann_file)
    with pytest.raises(UserError, match="predicted masks have 3x5"):
        evaluate(samples, ann_file=ann_file, metric="segm")


def test_missing_masks(example):
    ann_file, data, records = example
    with pytest.raises(UserError, match="'segm' needs masks"):
        evaluate(make_samples(data, records, masks=None), ann_file=ann_file, metric="segm")


def test_images_not_predicted_count_as_missed(example, log, tmp_path):
    ann_file, data, records = example
    samples = make_samples(data, records)[:-4]
    prefix = str(tmp_path / "part")
    figures, _ = evaluate(samples, ann_file=ann_file, outfile_prefix=prefix)
    theirs = judge(ann_file, f"{prefix}.bbox.json", "bbox").results["AP"]
    assert figures["lvis/bbox_AP"] == pytest.approx(theirs, rel=0, abs=1e-9)
    assert any("4 of 12 images" in message for message in log)


def test_images_predicted_twice_count_once(example, log):
    ann_file, data, records = example
    samples = make_samples(data, records)
    expected, _ = evaluate(samples, ann_file=ann_file)
    assert evaluate(samples + samples[:3], ann_file=ann_file)[0] == expected
    assert any("3 images were predicted more than once" in message for message in log)


def test_detections_that_are_not_finite_are_dropped_and_told(example, log, tmp_path):
    ann_file, data, records = example
    samples = make_samples(data, records)
    expected, _ = evaluate(samples, ann_file=ann_file, metric=["bbox", "segm"])
    number = 0
    for sample in samples:
        pred = sample["pred_instances"]
        if len(pred["labels"]):
            for name, row in pred.items():
                pred[name] = torch.cat([row[:1], row])
            pred["bboxes"][0, 3] = float("nan")
            number += 1
    prefix = str(tmp_path / "a")
    figures, _ = evaluate(
        samples, ann_file=ann_file, metric=["bbox", "segm"], outfile_prefix=prefix
    )
    assert figures == expected
    assert any(f"{number} detections left out" in message for message in log)
    assert "NaN" not in Path(f"{prefix}.bbox.json").read_text()


def test_half_precision_is_read_as_it_is(example, tmp_path):
    ann_file, data, records = example
    samples = make_samples(data, records, masks=None)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        for sample in samples:
            pred = sample["pred_instances"]
            pred["bboxes"], pred["scores"] = pred["bboxes"].to(dtype), pred["scores"].to(dtype)
        prefix = str(tmp_path / str(dtype))
        evaluate(samples, ann_file=ann_file, format_only=True, outfile_prefix=prefix)
        scores = [record["score"] for record in json.loads(Path(f"{prefix}.bbox.json").read_text())]
        assert scores == [x for s in samples for x in s["pred_instances"]["scores"].tolist()]


# --- files read once, ranks -----------------------------------------------------------------------


def test_the_annotation_file_is_read_once_and_late(example, monkeypatch):
    ann_file, data, records = example
    reads = []
    read = lvis_metric.read_ground_truth
    monkeypatch.setattr(
        lvis_metric, "read_ground_truth", lambda *args: reads.append(args) or read(*args)
    )
    metric = LVISFastMetric(ann_file)
    metric.process({}, make_samples(data, records))
    assert reads == []
    first = metric.evaluate(len(data["images"]))
    metric.process({}, make_samples(data, records))
    assert metric.evaluate(len(data["images"])) == first
    assert len(reads) == 1


def run_rank(rank, folder, ann_file, records):
    os.chdir("/proc")  # where nothing can be written, not even by root
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    data = json.loads(Path(ann_file).read_text())
    samples = make_samples(data, records)
    # As mmengine's DefaultSampler shares out: in turns, the last rank's missing image padded.
    samples += samples[: len(samples) % 2]
    metric = LVISFastMetric(ann_file, metric=["bbox", "segm"])
    metric.process({}, samples[rank::2])
    figures = metric.evaluate(len(data["images"]))
    has_read = metric._ground_truth is not None
    Path(folder, f"rank{rank}.json").write_text(json.dumps([figures, has_read]))
    torch.distributed.destroy_process_group()


def test_two_ranks_give_the_figures_of_one(example, tmp_path):
    ann_file, data, records = example
    removed = data["images"].pop()["id"]  # an odd number of images
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] != removed]
    records = [record for record in records if record["image_id"] != removed]
    ann_file, _ = save(tmp_path, data, records)
    assert len(data["images"]) % 2 == 1
    expected, _ = evaluate(make_samples(data, records), ann_file=ann_file, metric=["bbox", "segm"])
    torch.multiprocessing.spawn(run_rank, (str(tmp_path), ann_file, records), nprocs=2)
    for rank in range(2):
        figures, has_read = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert figures == expected
        # Only the rank that evaluates parses the annotation file.
        assert has_read == (rank == 0)


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"ann_file": None}, "'ann_file' is not set"),
        ({"ann_file": "nowhere/a.json"}, "nowhere/a.json: no such annotation file"),
        ({"metric": "keypoints"}, "'metric' is .*keypoints"),
        ({"metric": []}, "'metric' is"),
        ({"metric": ["proposal", "proposal_fast"]}, "both give AR@N"),
        ({"metric": "proposal", "classwise": True}, "'classwise' needs"),
        ({"proposal_nums": []}, "'proposal_nums'"),
        ({"proposal_nums": [0]}, "'proposal_nums'"),
        ({"proposal_nums": [1.5]}, "'proposal_nums'"),
        ({"iou_thrs": []}, "'iou_thrs'"),
        ({"iou_thrs": 0}, "'iou_thrs'"),
        ({"iou_thrs": [50, 75]}, "'iou_thrs'"),
        ({"iou_thrs": "0.5"}, "'iou_thrs'"),
        ({"metric_items": ["mAP"]}, "'metric_items' names 'mAP'"),
        ({"metric_items": ["AR@100"]}, "'metric_items' names 'AR@100'"),
        ({"metric": "proposal", "metric_items": ["ARr@300"]}, "names 'ARr@300'"),
        ({"metric": "proposal", "metric_items": ["AP"]}, "'metric_items' names 'AP'"),
        ({"metric": "proposal_fast", "metric_items": ["ARs@100"]}, "names 'ARs@100'"),
        ({"metric_items": ["AP75"], "iou_thrs": 0.5}, "'iou_thrs' does not hold 0.75"),
        ({"format_only": True}, "set 'outfile_prefix'"),
        ({"collect_device": "tpu"}, "'collect_device' is 'tpu'"),
        ({"fixed_ap": 0}, "'fixed_ap' is 0; give True for 10,000"),
        ({"pooled_ap": 1.5}, r"'pooled_ap' is 1\.5"),
        ({"bootstrap": "many"}, "'bootstrap' is 'many'; give True for 1,000"),
    ],
)
def test_arguments_that_cannot_be_followed(arguments, sentence, example):
    with pytest.raises(UserError, match=sentence):
        LVISFastMetric(**{"ann_file": example[0], **arguments})


def test_figures_by_frequency_need_the_field(example, tmp_path):
    _, data, records = example
    for category in data["categories"]:
        del category["frequency"]
    ann_file, _ = save(tmp_path, data, [])
    samples = make_samples(data, records)
    figures, _ = evaluate(samples, ann_file=ann_file)
    assert list(figures) == [f"lvis/bbox_{item}" for item in AP_ITEMS[:6]]
    for item in ("APr", "ARf@300"):
        with pytest.raises(UserError, match="no field 'frequency'"):
            evaluate(samples, ann_file=ann_file, metric_items=[item])


def test_remote_files_come_through_the_backend(example, tmp_path):
    """A path that only the backend can map."""
    ann_file, data, records = example
    samples = make_samples(data, records)
    expected, _ = evaluate(samples, ann_file=ann_file)

    from mmengine.fileio import LocalBackend, register_backend

    @register_backend("elsewhere", force=True)
    class Elsewhere(LocalBackend):
        def _map(self, path):
            return str(path).replace("elsewhere:", "")

        def isfile(self, path):
            return super().isfile(self._map(path))

        def get_local_path(self, path):
            return super().get_local_path(self._map(path))

    figures, _ = evaluate(
        samples, ann_file=f"elsewhere:{ann_file}", backend_args={"backend": "elsewhere"}
    )
    assert figures == expected
