"""The report on an annotation file."""

import json
import re

import matplotlib.image
import numpy as np
import pytest

from mmdet_eql.analysis.class_frequency_report import (
    category_draws,
    draw_epochs,
    read_annotated_images,
)
from mmdet_eql.datasets import RepeatFactorSampler
from mmdet_eql.losses.tail_weighting import lambda_for_tail_ratio
from mmdet_eql.utils.errors import UserError


def test_labels_are_those_of_the_file(minilvis, train_annotations):
    images = read_annotated_images(minilvis / "annotations" / "minilvis_train.json")
    ids = sorted(category["id"] for category in train_annotations["categories"])
    for index, image in enumerate(train_annotations["images"]):
        labels = sorted(
            ids.index(annotation["category_id"])
            for annotation in train_annotations["annotations"]
            if annotation["image_id"] == image["id"]
        )
        assert sorted(images.instance_labels[index].tolist()) == labels
    once = RepeatFactorSampler(images, 0, seed=0)
    np.testing.assert_array_equal(
        category_draws(images, draw_epochs(images, {"once": once})["once"]),
        images.class_frequency.image_count,
    )


def test_report_and_figure(minilvis, call_tool, tmp_path):
    ann_file = minilvis / "annotations" / "minilvis_train.json"
    figure = tmp_path / "figures" / "frequency.png"
    options = ("--lambda", 0.1, "--repeat-threshold", 0.3, "--out", figure)
    report = call_tool("analysis/class_frequency.py", ann_file, *options, check=True).stdout
    report = re.sub(" +", " ", report)
    images = read_annotated_images(ann_file)
    frequency = images.class_frequency
    assert f"{len(images)} images, {frequency.instance_count.sum()} instances" in report
    assert f"| 0.1 (chosen) | {100 * frequency.tail_ratio(0.1):.3f} %" in report
    length = RepeatFactorSampler(images, 0.3, seed=0).epoch_length(0)
    assert length > len(images)
    assert f"| repeat factors, t = 0.3 | {length} |" in report
    assert matplotlib.image.imread(figure).std() > 0.05

    # A share of the labels instead of lambda: the rarest categories that fit.
    options = ("--tail-ratio", 0.09)
    report = call_tool("analysis/class_frequency.py", ann_file, *options, check=True).stdout
    report = re.sub(" +", " ", report)
    lambda_ = lambda_for_tail_ratio(frequency.frequency, 0.09)
    tail = np.flatnonzero(frequency.frequency < lambda_)
    assert 0 < len(tail) < len(frequency)
    assert f"| {lambda_:g} (chosen) |" in report
    (line,) = [line for line in report.splitlines() if line.startswith("In the tail")]
    assert set(line.split(": ")[1].split(", ")) == {frequency.class_names[label] for label in tail}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is cut off"),
        ("[]", "holds a JSON list"),
        (json.dumps({"images": [{"id": 1, "height": 1, "width": 1}]}), "'annotations' is missing"),
        (
            json.dumps(
                {
                    "images": [{"id": 1, "height": 9, "width": 9, "file_name": "1.jpg"}],
                    "categories": [{"id": 1, "name": "cup"}],
                    "annotations": [
                        {"id": 1, "image_id": 2, "category_id": 1, "bbox": [1, 1, 2, 2], "area": 4}
                    ],
                }
            ),
            "image 2, which is not in 'images'",
        ),
    ],
)
def test_files_of_another_kind(tmp_path, content, sentence):
    path = tmp_path / "annotations.json"
    path.write_text(content)
    with pytest.raises(UserError, match=sentence):
        read_annotated_images(path)
    with pytest.raises(UserError, match="no such annotation file"):
        read_annotated_images(tmp_path / "none.json")
