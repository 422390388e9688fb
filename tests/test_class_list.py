"""The classes that a model is trained with are those of all that follows, by name.

A model that knows the truth by the names of its classes scores 1 whatever the ids of a file.
"""

import copy
import itertools
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric, LVISMetric
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import nn
from yapf.yapflib import yapf_api

from mmdet_eql.engine import stock_metrics
from mmdet_eql.engine.launch import build_runner, enable_tta, read_config
from mmdet_eql.engine.num_classes import set_num_classes
from mmdet_eql.utils.errors import UserError
from tests import conftest
from tests.conftest import CONFIGS
from tests.evaluation.federated_sets import evaluate_files

NUMBERS = itertools.count()
NAMES = ("cat", "dog", "emu")
#: Images: file name and the boxes of each name in there.
BOXES = {
    1: {"cat": [10, 10, 20, 30], "dog": [50, 20, 40, 30]},
    2: {"dog": [5, 50, 30, 20], "emu": [60, 60, 30, 30]},
    3: {"emu": [10, 10, 50, 50], "cat": [70, 5, 20, 20]},
}


class Head(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.fc_cls = nn.Linear(1, num_classes)


@MODELS.register_module()
class Oracle(BaseModel):
    """Finds all objects of its classes but those of the images ``blind``."""

    def __init__(self, bbox_head, classes=NAMES, blind=()):
        super().__init__()
        self.bbox_head = Head(bbox_head["num_classes"])
        self.classes, self.blind, self.num_steps = list(classes), blind, 0

    def forward(self, data_samples, inputs=None, mode="tensor"):
        if mode == "loss":
            self.num_steps += 1
            return {"loss": self.bbox_head.fc_cls.weight.sum()}
        return [self.find(sample) for sample in data_samples]

    def find(self, sample):
        found = {} if sample.img_id in self.blind else BOXES[sample.img_id]
        found = {name: box for name, box in found.items() if name in self.classes}
        boxes = torch.tensor(list(found.values()), dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([self.classes.index(name) for name in found], dtype=torch.int64)
        pred = InstanceData(bboxes=boxes, labels=labels, scores=torch.ones(len(boxes)))
        return DetDataSample(metainfo=sample.metainfo, pred_instances=pred)


def coco(id_of, size=(100, 100), prefix=""):
    """A COCO file of the objects whose categories it has."""
    boxes = [(image, name, box) for image, found in BOXES.items() for name, box in found.items()]
    return {
        "images": [
            dict(id=image, file_name=f"{prefix}{image}.jpg", height=size[0], width=size[1])
            for image in BOXES
        ],
        "categories": [dict(id=id_, name=name) for name, id_ in id_of.items()],
        "annotations": [
            dict(
                id=number + 1,
                image_id=image,
                category_id=id_of[name],
                bbox=box,
                area=box[2] * box[3],
                iscrowd=0,
            )
            for number, (image, name, box) in enumerate(boxes)
            if name in id_of
        ],
    }


STRAIGHT = {name: index + 1 for index, name in enumerate(NAMES)}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Make the config of a run: ``make(train ids, val ids, keys of the config)``."""
    # Formatting the configs would take most of the time.
    monkeypatch.setattr(yapf_api, "FormatCode", lambda text, **options: (text, True))
    for image in BOXES:
        for prefix in ("", "other_"):
            cv2.imwrite(f"{tmp_path}/{prefix}{image}.jpg", np.zeros((100, 100, 3), np.uint8))

    def write(name, content):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return str(path)

    def make(train=STRAIGHT, val=STRAIGHT, **options):
        files = {"train": write("train.json", coco(train)), "val": write("val.json", coco(val))}

        def loader(split):
            return dict(
                batch_size=1,
                num_workers=0,
                sampler=dict(type="DefaultSampler", shuffle=False),
                collate_fn=dict(type="pseudo_collate"),
                dataset=dict(
                    type="LVISFormatDataset",
                    ann_file=files[split],
                    data_prefix=dict(img=str(tmp_path)),
                    test_mode=split == "val",
                    annotation_cache=False,
                    pipeline=[dict(type="PackDetInputs", meta_keys=("img_id",))],
                ),
            )

        name = f"oracle_{next(NUMBERS)}"
        evaluator = dict(type="LVISFastMetric", ann_file=files["val"], classwise=True)
        cfg = Config(
            dict(
                default_scope="mmdet",
                launcher="none",
                experiment_name=name,
                work_dir=str(tmp_path / name),
                log_level="INFO",
                num_classes=None,
                model=dict(type="Oracle", bbox_head=dict(num_classes=None), classes=list(train)),
                train_dataloader=loader("train"),
                train_cfg=dict(type="IterBasedTrainLoop", max_iters=1, val_interval=1),
                optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
                default_hooks=dict(
                    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=1)
                ),
                val_dataloader=loader("val"),
                val_cfg=dict(type="ValLoop"),
                val_evaluator=evaluator,
                test_dataloader=loader("val"),
                test_cfg=dict(type="TestLoop"),
                test_evaluator=copy.deepcopy(evaluator),
            )
        )
        cfg.merge_from_dict(options)
        return cfg

    return make


def train(cfg) -> dict[str, float]:
    """Train for an iteration, and return the metrics of the validation."""
    runner = build_runner(cfg, "train", "val")
    runner.train()
    scalars = runner.message_hub.log_scalars
    return {name[4:]: scalars[name].current() for name in scalars if name.startswith("val/lvis")}


def run_test(cfg, checkpoint) -> dict[str, float]:
    cfg.load_from = str(checkpoint)
    return build_runner(cfg, "test").test()


def log_of(cfg) -> str:
    (path,) = Path(cfg.work_dir).glob("*/*.log")
    return path.read_text()


def refuses(cfg, words, loops=("train", "val"), run="train"):
    """A run ends in one sentence before the first iteration or image."""
    runner = build_runner(cfg, *loops)
    with pytest.raises(UserError, match=words) as caught:
        getattr(runner, run)()
    assert "\n" not in str(caught.value)
    assert runner.model.num_steps == 0


def checkpoint_of(path, names=NAMES, key="classes"):
    """A checkpoint of the oracle that names classes, or none."""
    meta = {} if names is None else {"dataset_meta": {key: tuple(names)}}
    if key == "CLASSES":
        meta = {key: tuple(names)}
    weights = {f"bbox_head.{name}": value for name, value in Head(3).state_dict().items()}
    torch.save(dict(meta=meta, state_dict=weights), path)
    return path


@pytest.mark.parametrize(
    "val",
    [
        {"dog": 1, "cat": 2, "emu": 3},
        {"emu": 1, "cat": 2, "dog": 3},
        {"cat": 700, "emu": -1, "dog": 0},
    ],
)
def test_ids_of_a_file_do_not_matter(make, val):
    expected = train(make(**{"model.blind": [2]}))
    assert 0.4 < expected["lvis/bbox_AP"] < 0.8
    assert train(make(val=val, **{"model.blind": [2]})) == expected
    cfg = make(val=val)
    metrics = train(cfg)
    assert [metrics[f"lvis/bbox_{name}_precision"] for name in NAMES] == [1, 1, 1]
    assert metrics["lvis/bbox_AP50"] == 1
    # And in a test, of the checkpoint that the training wrote.
    assert run_test(make(val=val), f"{cfg.work_dir}/iter_1.pth") == metrics
    assert "shares" not in log_of(cfg)


def test_a_file_with_fewer_categories(make):
    cfg = make(val={"emu": 1, "cat": 2}, **{"val_evaluator.outfile_prefix": None})
    metrics = train(cfg)
    assert metrics["lvis/bbox_AP"] == 1
    assert "lvis/bbox_dog_precision" not in metrics
    (line,) = [line for line in log_of(cfg).splitlines() if "shares" in line]
    assert "the 2 classes that it shares with the 3" in line
    assert "no category 'dog'" in line


def test_a_file_with_other_categories(make, tmp_path):
    """More than those of the training, or some others: the common ones are evaluated."""
    options = {"model.classes": ("dog", "cat"), "val_evaluator.outfile_prefix": f"{tmp_path}/out"}
    cfg = make(train={"dog": 7, "cat": 9}, val=STRAIGHT, **options)
    metrics = train(cfg)
    assert metrics["lvis/bbox_AP"] == 1
    assert "does not know its 'emu'" in log_of(cfg)
    written = json.loads((tmp_path / "out.bbox.json").read_text())
    assert {record["category_id"] for record in written} == {1, 2}

    cfg = make(train={"dog": 1, "cat": 2}, val={"emu": 1, "dog": 2}, **options)
    metrics = train(cfg)
    assert metrics["lvis/bbox_AP"] == 1
    assert "no category 'cat'" in log_of(cfg)
    assert "does not know its 'emu'" in log_of(cfg)
    # The result file has no category that the file does not know.
    written = json.loads((tmp_path / "out.bbox.json").read_text())
    assert [(record["image_id"], record["category_id"]) for record in written] == [(1, 2), (2, 2)]


def test_result_files_of_different_models(make, tmp_path, call_tool):
    """They have the ids of the evaluator's file, which the merged one is evaluated by."""
    files = []
    for order in (("emu", "cat", "dog"), ("dog", "emu", "cat")):
        prefix = f"{tmp_path}/{'_'.join(order)}"
        ids = {name: index + 1 for index, name in enumerate(order)}
        cfg = make(train=ids, val=STRAIGHT, **{"val_evaluator.outfile_prefix": prefix})
        assert train(cfg)["lvis/bbox_AP"] == 1
        files.append(f"{prefix}.bbox.json")
    ann_file, merged = cfg.val_evaluator.ann_file, tmp_path / "merged.json"
    call_tool("misc/merge_results.py", *files, "--ann-file", ann_file, "-o", merged, check=True)
    assert evaluate_files(ann_file, str(merged)).metrics()["AP50"] == 1
    page = tmp_path / "errors.html"
    options = ["--category", "dog", "--images", tmp_path, "--out", page]
    shown = call_tool("analysis/browse_errors.py", files[0], ann_file, *options, check=True)
    assert "dog: 2 annotations, 2 found, 0 missed, 0 false alarms" in shown.stdout
    assert "<html" in page.read_text()


def test_nothing_in_common(make):
    cfg = make(train={"dog": 1, "cat": 2}, val={"emu": 1})
    refuses(cfg, r"val\.json: has none of the classes .*'dog', 'cat'.*, but 'emu'")
    cfg = make(train={"dog": 1, "cat": 2}, val={"emu": 1})
    cfg.val_dataloader.dataset.ann_file = cfg.train_dataloader.dataset.ann_file
    refuses(cfg, r"val\.json: has none of the classes .*'dog', 'cat'.*, but 'emu'")


@pytest.mark.parametrize("name", ["Dog", "dog ", "DOG"])
def test_another_spelling(make, name, monkeypatch, tmp_path):
    monkeypatch.setitem(BOXES[1], name, [50, 20, 40, 30])
    words = rf"val\.json: has a category '{name}', but the class is called 'dog'"
    refuses(make(val={"cat": 1, name: 2, "emu": 3}, train=STRAIGHT), words)
    # And where the checkpoint alone says what the classes are.
    path = str(checkpoint_of(tmp_path / "a.pth"))
    refuses(make(val={"cat": 1, name: 2, "emu": 3}, load_from=path), words, ["test"], "test")


def test_classes_of_the_training_set_alone(make):
    cfg = make(**{"model.classes": ("emu", "cat")})
    cfg.train_dataloader.dataset.metainfo = dict(classes=("emu", "cat"))
    metrics = train(cfg)
    assert metrics["lvis/bbox_AP"] == 1
    assert {f"lvis/bbox_{name}_precision" for name in NAMES} & set(metrics) == {
        "lvis/bbox_cat_precision",
        "lvis/bbox_emu_precision",
    }


def test_classes_of_the_validation_set(make):
    """Another order is no matter; another set cannot be meant."""
    key = "val_dataloader.dataset.metainfo"
    assert train(make(**{key: dict(classes=("emu", "cat", "dog"))}))["lvis/bbox_AP"] == 1
    cfg = make(**{key: dict(classes=("dog",))})
    refuses(cfg, r"'metainfo\.classes' .* names 'dog', but .*'cat'")
    # All three as in MMDetection's own configs, where the file lacks one.
    cfg = make(val={"dog": 5, "emu": 6}, **{key: dict(classes=NAMES)})
    assert train(cfg)["lvis/bbox_AP"] == 1


def test_a_name_without_its_comma(make):
    options = {"train_dataloader.dataset.metainfo": dict(classes=("dog")), "model.classes": ["dog"]}
    assert train(make(**options))["lvis/bbox_AP"] == 1


def test_other_data_sets_cannot_follow(make):
    cfg = make()
    cfg.val_dataloader.dataset.update(type="CocoDataset", metainfo=dict(classes=("dog", "cat")))
    cfg.val_dataloader.dataset.pop("annotation_cache")
    refuses(cfg, r"val_dataloader\.dataset: CocoDataset has other classes \(2: dog, cat\)")
    cfg.val_dataloader.dataset.metainfo = dict(classes=NAMES)
    assert train(cfg)["lvis/bbox_AP"] == 1


# --- checkpoints ----------------------------------------------------------------------------------


def test_a_checkpoint_says_what_its_labels_are(make, tmp_path):
    names = ("emu", "cat", "dog")
    for key in ("classes", "CLASSES"):
        path = checkpoint_of(tmp_path / "a.pth", names, key)
        assert run_test(make(**{"model.classes": names}), path)["lvis/bbox_AP"] == 1
    cfg = make(val={"dog": 4, "cat": 5, "emu": 6}, load_from=str(path), **{"model.classes": names})
    assert build_runner(cfg, "val").val()["lvis/bbox_AP"] == 1


def test_augmented_images_have_the_classes_of_the_checkpoint(make, tmp_path):
    names = ("emu", "cat", "dog")
    cfg = make(val={"dog": 4, "cat": 5, "emu": 6}, **{"model.classes": names})
    cfg.tta_model = dict(
        type="DetTTAModel", tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=9)
    )
    meta_keys = ("img_id", "ori_shape", "flip", "flip_direction")
    views = [dict(type="Resize", scale=(size, size)) for size in (100, 50)]
    cfg.tta_pipeline = [
        dict(type="LoadVerifiedImage"),
        dict(
            type="TestTimeAug",
            transforms=[
                views,
                [dict(type="RandomFlip", prob=0.0)],
                [dict(type="PackDetInputs", meta_keys=meta_keys)],
            ],
        ),
    ]
    enable_tta(cfg)
    metrics = run_test(cfg, checkpoint_of(tmp_path / "a.pth", names))
    assert [metrics[f"lvis/bbox_{name}_precision"] for name in NAMES] == [1, 1, 1]


def test_a_checkpoint_that_names_no_classes(make, tmp_path):
    path = checkpoint_of(tmp_path / "a.pth", None)
    cfg = make()
    assert run_test(cfg, path)["lvis/bbox_AP"] == 1
    assert "a.pth: names no classes" in log_of(cfg)
    options = dict(num_classes=3, load_from=str(path))
    cfg = make(val={"dog": 1, "cat": 2}, **options)
    refuses(
        cfg, "names no classes, and the model has 3, but the data set .* on 2", ["test"], "test"
    )
    cfg.test_dataloader.dataset.metainfo = dict(classes=NAMES)
    assert run_test(cfg, path)["lvis/bbox_AP"] == 1


def test_a_checkpoint_of_other_classes(make, tmp_path):
    """As many, but others."""
    path = str(checkpoint_of(tmp_path / "a.pth", ("ant", "bee", "cow")))
    refuses(make(load_from=path), r"none of the classes .*'ant', 'bee', 'cow'", ["test"], "test")
    cfg = make(load_from=path)
    train(cfg)
    told, begun = (
        log_of(cfg).index(words)
        for words in (
            "its classifier (bbox_head.fc_cls.weight) is loaded label by label",
            "Saving checkpoint at 1 iter",
        )
    )
    assert told < begun
    cfg = make(load_from=path)
    cfg.default_hooks.partial_load = dict(type="PartialLoadHook", leave_out=["bbox_head.fc_cls"])
    train(cfg)
    assert "label by label" not in log_of(cfg)
    whole = torch.load(path)
    whole["meta"].update(iter=1, epoch=0)
    torch.save({**whole, "message_hub": {}, "optimizer": {}}, path)
    refuses(make(load_from=path, resume=True), r"has the class 'ant' where the training set has 'c")


def test_a_start_from_the_same_classes_or_from_nothing(make, tmp_path):
    path = checkpoint_of(tmp_path / "a.pth")
    cfg = make(load_from=str(path))
    train(cfg)
    assert "label by label" not in log_of(cfg)
    weights = torch.load(path)
    weights["state_dict"] = {"backbone.conv1.weight": torch.ones(1)}
    torch.save(weights, path)
    refuses(make(load_from=str(path)), r"none of its 1 weights fits")
    refuses(make(load_from=str(path)), r"none of its weights \(backbone.*\) is", ["test"], "test")


# --- the evaluator's own file ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            dict(prefix="other_"),
            r"image 1 is 1\.jpg with 100x100 .* but other_1\.jpg .*other\.json",
        ),
        (dict(size=(90, 100)), r"image 1 is 1\.jpg with 100x100 .* but 1\.jpg with 100x90"),
        (dict(shift=1), r"has no image 4, which .*other\.json has"),
    ],
)
def test_the_evaluator_has_another_file(make, tmp_path, changes, words):
    """The ids are the same: 1, 2, 3."""
    shift = changes.pop("shift", 0)
    other = coco(STRAIGHT, **changes)
    for record in other["images"]:
        record["id"] += shift
    other["images"] = other["images"][::-1] if shift else other["images"]
    other["annotations"] = []
    (tmp_path / "other.json").write_text(json.dumps(other))
    cfg = make(load_from=str(checkpoint_of(tmp_path / "a.pth")))
    cfg.test_dataloader.dataset.ann_file = str(tmp_path / "other.json")
    refuses(cfg, words, ["test"], "test")


def test_a_copy_or_a_part_of_the_evaluators_file(make, tmp_path):
    cfg = make()
    copied = shutil.copy(cfg.val_evaluator.ann_file, tmp_path / "copy.json")
    cfg.val_dataloader.dataset.update(ann_file=str(copied), indices=2)
    assert 0 < train(cfg)["lvis/bbox_AP"] < 1


def test_the_evaluators_files_are_opened_at_the_start(make, tmp_path):
    cfg = make()
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    cfg.val_evaluator.ann_file = str(bad)
    refuses(cfg, r"bad\.json")
    cfg = make()
    bad.write_text(json.dumps(coco({"cat": 1})))
    cfg.val_evaluator.train_ann_file = str(bad)
    refuses(cfg, r"bad\.json: has no category 'dog'")


def test_files_that_cannot_be_written(make, tmp_path):
    (tmp_path / "file").touch()
    cfg = make(**{"val_evaluator.outfile_prefix": f"{tmp_path}/file/results"})
    refuses(cfg, r"results\.bbox\.json: cannot be written .*; choose another 'outfile_prefix'")
    cfg = make(load_from=str(checkpoint_of(tmp_path / "a.pth")))
    dump = dict(type="DumpDetResults", out_file_path=f"{tmp_path}/file/a.pkl")
    cfg.test_evaluator = [cfg.test_evaluator, dump]
    refuses(cfg, r"a\.pkl: cannot be written .*; choose another 'out_file_path'", ["test"], "test")
    checkpoint = dict(type="AtomicCheckpointHook", by_epoch=False, out_dir=f"{tmp_path}/file")
    cfg = make(**{"default_hooks.checkpoint": checkpoint})
    refuses(cfg, r"iter_0\.pth: cannot be written .*; choose another 'out_dir' of default_hooks")


def test_the_best_checkpoint_by_groups_that_no_file_gives(make):
    checkpoint = dict(type="AtomicCheckpointHook", by_epoch=False, save_best="lvis/bbox_APr")
    options = {"default_hooks.checkpoint": checkpoint}
    refuses(make(**options), r"save_best: val_evaluator has no metric 'lvis/bbox_APr'; choose one")
    cfg = make(**options)
    cfg.val_evaluator.train_ann_file = cfg.train_dataloader.dataset.ann_file
    assert train(cfg)["lvis/bbox_APr"] == 1


# --- metrics of MMDetection -----------------------------------------------------------------------


def test_a_stock_metric_takes_labels_in_the_order_of_its_file(make, tmp_path):
    cfg = make(val={"dog": 1, "cat": 2, "emu": 3})
    cfg.val_evaluator = dict(type="CocoMetric", ann_file=cfg.val_evaluator.ann_file)
    refuses(cfg, "val_evaluator: CocoMetric takes labels .*: 'cat' would be 'dog'; use")

    def check(ids, kind=CocoMetric):
        path = tmp_path / "file.json"
        path.write_text(json.dumps(coco(ids)))
        stock_metrics.prepare_stock_metric(kind(ann_file=str(path)), NAMES, "test")

    check({"cat": 9, "gnu": 1, "dog": 5, "emu": 7})
    with pytest.raises(UserError, match="'emu' would be 'none'"):
        check({"cat": 1, "dog": 2})
    with pytest.raises(UserError, match=r"LVISMetric takes labels .*: 'dog' would be 'gnu'"):
        check({"cat": 9, "gnu": 1, "dog": 5, "emu": 7}, LVISMetric)
    content = coco(dict(zip(NAMES, range(3), strict=True)))
    for image in content["images"]:
        image["neg_category_ids"] = []
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    metric = CocoMetric(ann_file=str(tmp_path / "lvis.json"))
    said = conftest.log_of(lambda: stock_metrics.prepare_stock_metric(metric, NAMES, "test"))
    assert "CocoMetric counts each detection in an image where nobody looked" in said


def test_a_stock_metric_of_several_processes_writes_no_files(monkeypatch):
    monkeypatch.setattr(stock_metrics, "get_world_size", lambda: 2)
    for folder, device in ((None, "gpu"), ("results", "cpu")):
        metric = CocoMetric()
        metric.collect_dir = folder
        stock_metrics.prepare_stock_metric(metric, NAMES, "val")
        assert metric.collect_device == device


# --- num_classes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("top", "head", "built"),
    [(None, None, 3), (3, None, 3), (3, 80, 3), (80, 3, 3), (3, 3, 3), (None, 3, 3)],
)
def test_num_classes_is_written_in_one_place(make, top, head, built):
    cfg = make(num_classes=top, **{"model.bbox_head.num_classes": head})
    assert build_runner(cfg, "train", "val").model.bbox_head.num_classes == built
    # What MMDetection's DetInferencer can take.
    (written,) = Path(cfg.work_dir).glob("*.py")
    assert Config.fromfile(written).model.bbox_head.num_classes == built


def test_num_classes_of_a_child_config(minilvis_coco, tmp_path, monkeypatch):
    """mmengine has put that of the base, 200, into the head by then."""
    monkeypatch.setenv("MMDET_EQL_DATA", str(minilvis_coco.parent))
    base = CONFIGS / "minilvis" / "custom" / "mask-rcnn_r18_fpn_eql_1xb4_minilvis-coco.py"
    path = tmp_path / "child.py"
    path.write_text(f"_base_ = {str(base)!r}\nnum_classes = 12\n")
    cfg = read_config(str(path))
    other = copy.deepcopy(cfg)
    assert cfg.model.roi_head.bbox_head.num_classes == 200
    set_num_classes(cfg, ["train"])
    assert cfg.model.roi_head.bbox_head.num_classes == 12
    assert cfg.model.roi_head.mask_head.num_classes == 1  # class-agnostic
    # As --cfg-options does, with a wrong one.
    other.merge_from_dict({"num_classes": 4})
    with pytest.raises(UserError, match=r"num_classes is 4 .*train\.json has 12 .*_classes = 12"):
        set_num_classes(other, ["train"])


@pytest.mark.parametrize(
    ("top", "head", "words"),
    [
        (4, 80, r"num_classes is 4 and that of the heads 80.*train\.json has 3 .*\(cat, dog, emu"),
        (4, None, r"num_classes is 4, but .*train\.json has 3 categories"),
        ("many", 3, r"num_classes is 'many'; give"),
        (80, 80, r"model\.bbox_head\.num_classes is 80, but .*train\.json has 3 .*num_classes = 3"),
        (None, 80, r"model\.bbox_head\.num_classes is 80, but .*train\.json has 3"),
    ],
)
def test_a_wrong_number_of_classes(make, top, head, words):
    cfg = make(num_classes=top, **{"model.bbox_head.num_classes": head})
    with pytest.raises(UserError, match=words):
        build_runner(cfg, "train", "val").train()


def test_the_number_of_a_checkpoint(make, tmp_path):
    """A test needs no training set."""
    cfg = make(val={"dog": 1})
    cfg.train_dataloader.dataset.ann_file = "gone.json"
    assert run_test(cfg, checkpoint_of(tmp_path / "a.pth"))["lvis/bbox_AP"] == 1
    assert cfg.model.bbox_head.num_classes == 3
