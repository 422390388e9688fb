"""Open Images Challenge 2019: a tiny set of its layout, its frequencies, its groups of AP."""

import csv
import pickle

import cv2
import numpy as np
import pytest
import torch
from mmdet.evaluation import OpenImagesMetric
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmdet_eql.annotations.open_images import count_challenge_boxes
from mmdet_eql.datasets import CountedOpenImagesChallengeDataset
from mmdet_eql.evaluation.open_images_metric import OpenImagesGroupMetric
from mmdet_eql.frequency import class_frequency_of
from mmdet_eql.utils.errors import UserError
from tests.conftest import CONFIGS, tiny_options

C = 10
SIZE = (48, 64)  # height, width
MINILVIS = CONFIGS / "minilvis/openimages/faster-rcnn_r18_fpn_eql_1xb4_minilvis-openimages.py"
METHODS = {
    "softmax": {"type": "CrossEntropyLoss", "_delete_": True},
    "eql": {},
    "eqlv2": {"type": "EqualizationLossV2", "_delete_": True},
}
TRAIN = "challenge2019/challenge-2019-train-detection-bbox.txt"


@pytest.fixture(scope="module")
def openimages(tmp_path_factory):
    """Twelve training and four validation images; label 1 is the parent of 2 and 3."""
    root = tmp_path_factory.mktemp("data") / "OpenImages"
    (root / "challenge2019").mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [(f"/m/{label:02d}", f"Class {label}", label) for label in range(C, 0, -1)]
    with open(root / "challenge2019" / "cls-label-description.csv", "w", newline="") as file:
        csv.writer(file).writerows(names)
    tree = np.eye(C + 1)
    tree[2:4, 1] = 1
    with open(root / "challenge2019" / "class_label_tree.np", "wb") as file:
        np.save(file, tree)
    for split, num_images in (("train", 12), ("validation", 4)):
        folder = "OpenImages/train" if split == "train" else "OpenImages"
        images = root / folder if split == "train" else root / folder / "validation"
        images.mkdir(parents=True, exist_ok=True)
        lines, metas, verified = [], [], [("ImageID", "LabelName", "Confidence")]
        for index in range(num_images):
            name = f"{split}{index:03d}"
            relative = f"{name}.jpg" if split == "train" else f"validation/{name}.jpg"
            cv2.imwrite(str(images / f"{name}.jpg"), rng.integers(0, 255, (*SIZE, 3), np.uint8))
            boxes = [f"{1 + min(index + k, C - 1)} 0.1 0.2 0.6 0.9 {int(k == 1)}" for k in range(3)]
            lines += [relative, "#", str(len(boxes)), *boxes]
            metas.append({"filename": relative, "ori_shape": (*SIZE, 3)})
            verified.append((name, "/m/09", "0"))
        prefix = root / "challenge2019" / f"challenge-2019-{split}-"
        prefix.with_name(prefix.name + "detection-bbox.txt").write_text("\n".join(lines) + "\n")
        prefix.with_name(prefix.name + "metas.pkl").write_bytes(pickle.dumps(metas))
        path = prefix.with_name(prefix.name + "detection-human-imagelabels.csv")
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows(verified)
    return root


def build_dataset(openimages, **options) -> CountedOpenImagesChallengeDataset:
    return CountedOpenImagesChallengeDataset(
        **{
            **dict(
                data_root=str(openimages),
                ann_file=TRAIN,
                data_prefix=dict(img="OpenImages/train/"),
                label_file="challenge2019/cls-label-description.csv",
                hierarchy_file="challenge2019/class_label_tree.np",
                meta_file="challenge2019/challenge-2019-train-metas.pkl",
            ),
            **options,
        }
    )


def test_frequencies_are_counted(openimages):
    frequency = class_frequency_of(build_dataset(openimages))
    assert frequency.class_names == tuple(f"Class {label}" for label in range(1, C + 1))
    assert frequency.num_images == 12
    # Image i shows labels i to i + 2, and the last label in place of those beyond it.
    assert frequency.image_count.tolist() == [1, 2, 3, 3, 3, 3, 3, 3, 3, 5]
    assert frequency.instance_count.tolist() == [1, 2, 3, 3, 3, 3, 3, 3, 3, 12]
    counted = count_challenge_boxes(str(openimages / TRAIN), C)
    assert counted.tolist() == frequency.instance_count.tolist()
    # Whatever part of the images is used.
    part = build_dataset(openimages, indices=3)
    assert len(part) == 3
    assert part.class_frequency.image_count.tolist() == frequency.image_count.tolist()


def test_groups_of_objects_have_the_name_that_the_metric_reads(openimages):
    instances = build_dataset(openimages)[0]["instances"]
    assert [instance["is_group_of"] for instance in instances] == [False, True, False]


def tiny(method, folder, work_dir) -> Config:
    """A run of four steps on the tiny MiniLVIS."""
    init_default_scope("mmdet")
    cfg = Config.fromfile(MINILVIS)
    loss = METHODS[method].items()
    cfg.merge_from_dict({f"model.roi_head.bbox_head.loss_cls.{key}": value for key, value in loss})
    options = tiny_options(folder, method="any-data")
    masks = "model.roi_head.mask_"
    options = {key: value for key, value in options.items() if not key.startswith(masks)}
    for split in ("val", "test"):
        del options[f"{split}_evaluator.ann_file"]
        options[f"{split}_evaluator.train_ann_file"] = str(folder / TRAIN)
    cfg.merge_from_dict(options)
    cfg.work_dir = str(work_dir)
    return cfg


@pytest.mark.parametrize("method", METHODS)
def test_training_and_evaluation(method, minilvis_openimages, train_annotations, tmp_path):
    runner = Runner.from_cfg(tiny(method, minilvis_openimages, tmp_path))
    runner.train()
    figures = {
        name.removeprefix("val/"): value.current()
        for name, value in runner.message_hub.log_scalars.items()
        if name.startswith("val/openimages")
    }
    names = {"AP50", "mAP", *(f"AP{group}" for group in range(1, 6))}
    assert set(figures) == {f"openimages/{name}" for name in names}
    assert figures["openimages/AP50"] == figures["openimages/mAP"]
    loss = runner.model.roi_head.bbox_head.loss_cls
    assert type(loss).__name__ == METHODS[method].get("type", "EqualizationLoss")
    if method == "eql":
        count = np.array([record["image_count"] for record in train_annotations["categories"]])
        tail = loss.tail_weights().numpy() == 1
        assert 0 < count[tail].sum() <= 0.09 * count.sum()
        assert count[tail].max() < count[~tail].min()


def detections(labels, scores, shift=0.0):
    """Boxes at the annotated place, or beside it, as an image's prediction."""

    box = np.array([0.1 * SIZE[1], 0.2 * SIZE[0], 0.6 * SIZE[1], 0.9 * SIZE[0]]) + shift
    return dict(
        bboxes=torch.tensor(np.tile(box, (len(labels), 1))),
        scores=torch.tensor(scores, dtype=torch.float64),
        labels=torch.tensor(labels, dtype=torch.int64),
    )


def test_ap_by_group(openimages):
    dataset = build_dataset(
        openimages,
        ann_file="challenge2019/challenge-2019-validation-detection-bbox.txt",
        data_prefix=dict(img="OpenImages/"),
        meta_file="challenge2019/challenge-2019-validation-metas.pkl",
        image_level_ann_file="challenge2019/challenge-2019-validation-detection-human-imagelabels.csv",
    )
    ours = OpenImagesGroupMetric(train_ann_file=str(openimages / TRAIN))
    theirs = OpenImagesMetric()
    for metric in (ours, theirs):
        metric.dataset_meta = dataset.metainfo
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            # Right about the labels from 2 (third category) on, beside the mark for the others.
            labels = sorted({instance["bbox_label"] for instance in info["instances"]})
            right = [label for label in labels if label >= 2]
            wrong = [label for label in labels if label < 2]
            found, missed = (
                detections(right, [0.9] * len(right)),
                detections(wrong, [0.8] * len(wrong), shift=30.0),
            )

            pred = {key: torch.cat([found[key], missed[key]]) for key in found}
            metric.process({}, [{**info, "pred_instances": pred}])
    figures = ours.evaluate(len(dataset))
    assert figures["openimages/AP50"] == pytest.approx(
        theirs.evaluate(len(dataset))["openimages/AP50"], abs=1e-3
    )
    # The rarest two of the ten categories; those that images 0 to 3 do not show have no AP.
    assert figures["openimages/AP1"] < 0.5
    assert figures["openimages/AP2"] == pytest.approx(1)
    assert figures["openimages/AP3"] == pytest.approx(1)
    assert figures["openimages/AP4"] == figures["openimages/AP5"] == -1


def test_mistakes_are_one_sentence(openimages, tmp_path):
    for options, words in (
        (dict(ann_file="gone.txt"), "gone.txt"),
        (dict(meta_file="challenge2019/challenge-2019-validation-metas.pkl"), "open-images.md"),
        (dict(label_file=str(short_labels(tmp_path))), "labels 1 to 4"),
    ):
        with pytest.raises(UserError, match=words) as error:
            build_dataset(openimages, **options)
        assert "\n" not in str(error.value)
    broken = tmp_path / "broken.txt"
    text = (openimages / TRAIN).read_text()
    for content, words in ((text[:-40], "cut off"), (text.replace("#\n3", "#\nx"), "'x"), ("", "")):
        broken.write_text(content)
        if not content:
            assert count_challenge_boxes(str(broken), C).sum() == 0
            continue
        with pytest.raises(UserError, match=words):
            count_challenge_boxes(str(broken), C)
    with pytest.raises(UserError, match="label 10 of 9"):
        count_challenge_boxes(str(openimages / TRAIN), 9)


def short_labels(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("".join(f"/m/{label:02d},Class {label},{label}\n" for label in range(1, 5)))
    return path
