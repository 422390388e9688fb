"""Data of one's own: MiniLVIS as a COCO file, without what only LVIS has, trains and evaluates."""

import csv
import importlib
import json
import os

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmdet_eql.analysis.class_frequency_report import read_annotated_images
from mmdet_eql.annotations.reader import read_annotations
from mmdet_eql.datasets import LVISFormatDataset
from mmdet_eql.engine.config_check import check_config
from mmdet_eql.engine.launch import read_config
from mmdet_eql.engine.num_classes import set_num_classes
from mmdet_eql.evaluation.lvis_metric import LVISFastMetric
from mmdet_eql.utils.errors import UserError
from tests.config_checks import unread_keys
from tests.conftest import CONFIGS, build_dataset, log_of, tiny_options
from tests.evaluation.federated_sets import evaluate_files


def new_id(category_id: int) -> int:
    """Ids with gaps, in the opposite order."""
    return 1000 - 7 * category_id


@pytest.fixture(scope="module")
def custom(minilvis_coco, tmp_path_factory):
    """The tiny MiniLVIS as a COCO set, with other ids: its folder."""
    folder = tmp_path_factory.mktemp("custom")
    (folder / "annotations").mkdir()
    for split in ("train", "val"):
        data = read(minilvis_coco, split)
        for category in data["categories"]:
            category["id"] = new_id(category["id"])
        for annotation in data["annotations"]:
            annotation["category_id"] = new_id(annotation["category_id"])
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(data))
        (folder / split).symlink_to(minilvis_coco / split)
    return folder


def read(folder, split="val") -> dict:
    return json.loads((folder / "annotations" / f"{split}.json").read_text())


def dataset_of(folder, split="train", **options) -> LVISFormatDataset:
    return LVISFormatDataset(
        ann_file=f"annotations/{split}.json",
        data_root=str(folder),
        data_prefix=dict(img=f"{split}/"),
        **options,
    )


def test_the_config_of_the_documentation(custom, tmp_path):
    """Its keys are all read, its files are found and its parts can be built."""
    text = (CONFIGS.parent / "docs" / "custom-data.md").read_text()
    (code,) = [part for part in text.split("```python\n") if part.startswith("_base_")]
    path, folder = tmp_path / "pets.py", tmp_path / "pets"
    classes = tuple(category["name"] for category in read(custom, "train")["categories"][:2])
    for written, here in (
        ("./mask", f"{os.path.relpath(CONFIGS, tmp_path)}/custom/mask"),
        ("data/pets/", f"{folder}/"),
        ('("cat", "dog")', repr(classes)),
    ):
        assert written in code
        code = code.replace(written, here)
    path.write_text(code.split("```")[0])
    folder.mkdir()
    for split in ("train", "val"):
        (folder / f"{split}.json").symlink_to(custom / "annotations" / f"{split}.json")
    (folder / "images").symlink_to(custom / "train")
    assert not unread_keys(path)
    cfg = read_config(str(path))
    check_config(cfg)
    assert cfg.test_dataloader.dataset.ann_file == "val.json"
    assert cfg.test_evaluator.train_ann_file == f"{folder}/train.json"
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        (resize,) = [step for step in loader.dataset.pipeline if step.type == "Resize"]
        assert resize.scale == (512, 512)
    set_num_classes(cfg, ["train"])
    assert cfg.model.roi_head.bbox_head.num_classes == 2


def test_labels_and_frequencies_are_those_of_the_lvis_file(custom, minilvis):
    ours, theirs = dataset_of(custom), build_dataset(minilvis)
    assert ours.metainfo["classes"] == theirs.metainfo["classes"][::-1]
    for name in ("image_count", "instance_count"):
        counts = getattr(ours.class_frequency, name)
        assert counts.tolist() == getattr(theirs.class_frequency, name)[::-1].tolist()
    assert ours.class_frequency.num_images == theirs.class_frequency.num_images
    for index in range(0, len(ours), 7):
        mine, other = ours.get_data_info(index), theirs.get_data_info(index)
        assert mine["negative_labels"] == []
        assert mine["positive_labels"] == sorted(11 - label for label in other["positive_labels"])
        assert len(mine["instances"]) == len(other["instances"])
    report = read_annotated_images(custom / "annotations" / "train.json")
    assert report.class_frequency.image_count.tolist() == ours.class_frequency.image_count.tolist()


def near_misses(data, seed=0) -> list[dict]:
    """Records of masks near the annotated ones, some of another category, with equal scores."""
    rng = np.random.default_rng(seed)
    sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
    ids = [category["id"] for category in data["categories"]]
    records = []
    for annotation in data["annotations"]:
        size = sizes[annotation["image_id"]]
        rle = mask_utils.merge(mask_utils.frPyObjects(annotation["segmentation"], *size))
        for _ in range(rng.integers(1, 4)):
            shifted = np.roll(mask_utils.decode(rle), rng.integers(-3, 4, size=2), axis=(0, 1))
            counts = mask_utils.encode(np.asfortranarray(shifted))["counts"].decode()
            records.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": annotation["category_id"]
                    if rng.random() < 0.7
                    else rng.choice(ids).item(),
                    "segmentation": {"size": list(size), "counts": counts},
                    "score": rng.integers(1, 20).item() / 20,
                }
            )
    return records


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_figures_are_those_of_cocos_evaluation(iou_type, custom, tmp_path):
    ann_file = str(custom / "annotations" / "val.json")
    records = near_misses(read(custom))
    if iou_type == "bbox":
        for record in records:
            record["bbox"] = mask_utils.toBbox(record.pop("segmentation")).tolist()
    results = tmp_path / "results.json"
    results.write_text(json.dumps(records))
    ours = evaluate_files(ann_file, str(results), iou_type).metrics()
    ground_truth = COCO(ann_file)
    judge = COCOeval(ground_truth, ground_truth.loadRes(str(results)), iou_type)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert len(records) < 100 * len(read(custom)["images"])
    for index, name in enumerate(("AP", "AP50", "AP75", "APs", "APm", "APl")):
        assert ours[name] == pytest.approx(judge.stats[index], abs=1e-9), name
    assert 0.05 < ours["AP"] < 0.9
    assert "APr" not in ours


def test_a_crowd_is_ignored(custom, tmp_path):
    data = read(custom)
    crowd = data["annotations"][0]
    box = {"image_id": crowd["image_id"], "category_id": crowd["category_id"], "score": 1.0}
    results = tmp_path / "results.json"
    results.write_text(json.dumps([{**box, "bbox": crowd["bbox"]}]))
    figures = []
    for is_crowd in (0, 1):
        crowd["iscrowd"] = is_crowd
        data["annotations"] = [crowd, {**crowd, "id": 10**6, "bbox": [0, 0, 3, 3], "iscrowd": 0}]
        ann_file = tmp_path / "val.json"
        ann_file.write_text(json.dumps(data))
        figures.append(evaluate_files(str(ann_file), str(results)).metrics()["AP"])
    assert figures == [pytest.approx(0.505, abs=0.01), 0]  # one of two found; the one not found


def test_id_0_is_an_id_like_any_other(custom, tmp_path):
    data = read(custom)
    first = data["annotations"][0]
    data["annotations"] = [{**first, "id": 0}]
    ann_file, results = tmp_path / "val.json", tmp_path / "results.json"
    ann_file.write_text(json.dumps(data))
    record = {key: first[key] for key in ("image_id", "category_id", "bbox")}
    results.write_text(json.dumps([{**record, "score": 0.5}]))
    assert evaluate_files(str(ann_file), str(results)).metrics()["AP"] == pytest.approx(1)


def test_the_log_says_which_protocol(custom, minilvis):
    def protocol(ann_file, **options) -> tuple[str, dict]:
        metric = LVISFastMetric(ann_file=str(ann_file), **options)
        figures = {}
        text = log_of(lambda: figures.update(metric.evaluate(0)))
        lines = [line for line in text.splitlines() if "APr, APc and APf" in line]
        assert len(lines) <= 1
        return "".join(lines), figures

    train, val = (custom / "annotations" / f"{split}.json" for split in ("train", "val"))
    line, figures = protocol(val)
    assert "no image has 'neg_category_ids'" in line
    assert "left out" in line
    assert "lvis/bbox_APr" not in figures
    line, figures = protocol(val, train_ann_file=str(train))
    assert f"by the number of images in {train}" in line
    assert {"lvis/bbox_APr", "lvis/bbox_APc", "lvis/bbox_APf"} <= set(figures)
    # LVIS's own goes without saying.
    assert protocol(minilvis / "annotations" / "minilvis_val.json")[0] == ""


def test_groups_are_counted_in_the_training_set(custom, minilvis, tmp_path):
    """MiniLVIS names the groups that its training set makes."""
    records = near_misses(read(custom))
    for record in records:
        record["bbox"] = mask_utils.toBbox(record.pop("segmentation")).tolist()
    metric = LVISFastMetric(
        ann_file=str(custom / "annotations" / "val.json"),
        train_ann_file=str(custom / "annotations" / "train.json"),
    )
    metric.evaluate(0)
    counted = dict(
        zip(
            metric.evaluations["bbox"].category_names,
            metric.evaluations["bbox"].frequencies.tolist(),
            strict=True,
        )
    )
    data = json.loads((minilvis / "annotations" / "minilvis_val.json").read_text())
    assert counted == {record["name"]: record["frequency"] for record in data["categories"]}


def test_mistakes_are_one_sentence(custom, tmp_path):
    val = str(custom / "annotations" / "val.json")
    with pytest.raises(UserError, match=r"gone\.json: no such .*'train_ann_file'"):
        LVISFastMetric(ann_file=val, train_ann_file="gone.json")
    data = read(custom, "train")
    data["categories"][3]["name"] = "something else"
    other = tmp_path / "train.json"
    other.write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"train\.json: has no category"):
        LVISFastMetric(ann_file=val, train_ann_file=str(other)).evaluate(0)
    data["images"][5]["neg_category_ids"] = []
    other.write_text(json.dumps(data))
    with pytest.raises(UserError, match="from all images if every category") as error:
        read_annotations(str(other))
    assert "\n" not in str(error.value)


def tiny(detector: str, folder, work_dir) -> Config:
    """The twin of a config of configs/custom, on a tiny set."""
    init_default_scope("mmdet")
    twins = CONFIGS / "minilvis" / "custom"
    cfg = Config.fromfile(twins / f"{detector}_r18_fpn_eql_1xb4_minilvis-coco.py")
    options = tiny_options(folder, method="any-data", val_ann_file="annotations/val.json")
    if not cfg.model.roi_head.get("mask_head"):
        masks = "model.roi_head.mask_"
        options = {key: value for key, value in options.items() if not key.startswith(masks)}
    for split in ("val", "test"):
        options[f"{split}_evaluator.train_ann_file"] = str(folder / "annotations" / "train.json")
    cfg.merge_from_dict(options)
    cfg.work_dir = str(work_dir)
    return cfg


def test_training_with_masks(custom, tmp_path):
    runner = Runner.from_cfg(tiny("mask-rcnn", custom, tmp_path))
    figures = {}
    text = log_of(lambda: figures.update(evaluate_after(runner)))
    assert "no image has 'neg_category_ids'" in text
    assert {f"lvis/{kind}_AP{group}" for kind in ("bbox", "segm") for group in "rcf"} <= set(
        figures
    )
    # The rarest categories with at most 9 % of the labels.
    frequency = dataset_of(custom).class_frequency
    tail = runner.model.roi_head.bbox_head.loss_cls.tail_weights() == 1
    assert 0 < frequency.image_count[tail.numpy()].sum() <= 0.09 * frequency.image_count.sum()


def evaluate_after(runner) -> dict:
    runner.train()
    return {
        name.removeprefix("val/"): value.current()
        for name, value in runner.message_hub.log_scalars.items()
        if name.startswith("val/lvis")
    }


def test_training_without_masks(custom, tmp_path):
    folder = tmp_path / "boxes"
    (folder / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        data = read(custom, split)
        for annotation in data["annotations"]:
            del annotation["segmentation"]
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(data))
        (folder / split).symlink_to(custom / split)
    runner = Runner.from_cfg(tiny("faster-rcnn", folder, tmp_path / "work_dir"))
    figures = evaluate_after(runner)
    assert "lvis/bbox_APr" in figures
    assert not [name for name in figures if "segm" in name]


def test_the_documented_dataset_class_trains(custom, tmp_path, monkeypatch):
    """The very code of docs/custom-data.md, on a table of the same boxes."""
    text = (CONFIGS.parent / "docs" / "custom-data.md").read_text()
    code = text.partition("## A data set class of your own")[2].partition("```python\n")[2]
    code = code.partition("```")[0]
    assert len(code.splitlines()) <= 30
    (tmp_path / "box_table.py").write_text(code)
    data = read(custom, "train")
    images = {image["id"]: image for image in data["images"]}
    names = {category["id"]: category["name"] for category in data["categories"]}
    with open(tmp_path / "boxes.csv", "w", newline="") as file:
        for annotation in data["annotations"]:
            image, (x, y, width, height) = images[annotation["image_id"]], annotation["bbox"]
            row = [image["file_name"], image["width"], image["height"]]
            row += [x, y, x + width, y + height, names[annotation["category_id"]]]
            csv.writer(file).writerow(row)

    cfg = tiny("faster-rcnn", custom, tmp_path / "work_dir")
    cfg.train_cfg.max_iters = 2
    cfg.train_dataloader.sampler = dict(type="RepeatFactorSampler", infinite=True)
    cfg.train_dataloader.dataset = dict(
        type="BoxTable",
        ann_file=str(tmp_path / "boxes.csv"),
        metainfo=dict(classes=dataset_of(custom).metainfo["classes"]),
        data_prefix=dict(img=str(custom / "train")),
        pipeline=cfg.train_dataloader.dataset.pipeline,
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("box_table")
    runner = Runner.from_cfg(cfg)
    assert "lvis/bbox_APr" in evaluate_after(runner)
    with_boxes = len({annotation["image_id"] for annotation in data["annotations"]})
    expected = dataset_of(custom).class_frequency.image_count / with_boxes
    counted = runner.model.roi_head.bbox_head.loss_cls.class_frequency
    np.testing.assert_allclose(counted.numpy(), expected, rtol=1e-6)
