"""AP over the number of training images, drawn."""

import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdet_eql.frequency import frequency_group
from mmdet_eql.runs.groups import RunGroup, group_runs
from mmdet_eql.runs.plots import (
    mean_over_frequency,
    plot_categories,
    plot_learning_curves,
    save_overview,
)
from mmdet_eql.runs.records import RunRecord
from mmdet_eql.utils.errors import UserError

COUNTS = np.array([0, 1, 2, 2, 5, 10, 11, 40, 100, 101, 900])
NAMES = tuple(f"category {index}" for index in range(len(COUNTS)))


def groups(kinds=("bbox", "segm"), names=NAMES, **ap: float) -> list[RunGroup]:
    """Groups of one run, by their labels."""
    return group_runs(
        [
            RunRecord(
                *(label, label, label, {}, 0, label, label),
                figures={
                    kind: {"AP": value, "APr": math.nan, "APc": value, "APf": value}
                    for kind in kinds
                },
                category_figures={kind: dict.fromkeys(names, value) for kind in kinds},
                image_count=dict(zip(NAMES, COUNTS.tolist(), strict=True)),
            )
            for label, value in ap.items()
        ]
    )


def picture(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return image


def test_the_picture_shows_the_runs(tmp_path):
    path = tmp_path / "new folder" / "plot.png"
    save_overview(groups(baseline=0.2, EQL=0.3), path, "title")
    both = picture(path)
    assert os.listdir(path.parent) == ["plot.png"]
    save_overview(groups(baseline=0.2, EQL=0.1), path, "title")
    assert both.shape == picture(path).shape
    assert (both != picture(path)).any()
    save_overview(groups(baseline=0.2, kinds=["bbox"]), path)
    assert picture(path).shape[0] < both.shape[0]


def test_colours_of_both_runs_are_there(tmp_path):
    save_overview(groups(baseline=0.2, EQL=0.3), tmp_path / "plot.png")
    pixels = {tuple(pixel) for pixel in picture(tmp_path / "plot.png").reshape(-1, 3).tolist()}
    assert (0xB2, 0x72, 0x00) in pixels
    assert (0x00, 0x5E, 0xD5) in pixels


@pytest.mark.parametrize("ap", [0.0, 1.0])
def test_metrics_at_the_edge(tmp_path, ap):
    save_overview(groups(run=ap), tmp_path / "plot.png")
    assert picture(tmp_path / "plot.png").std() > 0


def test_what_cannot_be_drawn_is_an_error(tmp_path):
    path = tmp_path / "plot.png"
    for wrong in (groups(a=0.1, names=[]), groups(a=math.nan)):
        with pytest.raises(UserError, match="classwise=True"):
            save_overview(wrong, path)
        assert plot_categories(wrong, "bbox") is None
        assert plot_categories(wrong, "bbox", wrong[0]) is None
    assert plot_learning_curves(groups(a=0.1), "bbox", "AP") is None
    assert not path.exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        save_overview(groups(a=0.1), tmp_path / "file" / "plot.png")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 300), st.floats(0, 1) | st.just(math.nan)), min_size=0, max_size=80
    )
)
def test_means_are_of_categories_of_one_group(categories):
    count = np.array([count for count, _ in categories], dtype=np.int64)
    ap = np.array([ap for _, ap in categories])
    x, mean = mean_over_frequency(count, ap)
    assert len(x) == len(mean)
    assert (np.diff(x) > 0).all()
    known = ~np.isnan(ap)
    assert len(x) <= known.sum()
    for group in "rcf":
        members = known & (frequency_group(count) == group)
        points = mean[frequency_group(np.round(x, 6)) == group]
        assert (len(points) > 0) == members.any()
        if members.any():
            assert points.min() >= ap[members].min() - 1e-12
            assert points.max() <= ap[members].max() + 1e-12


def test_means_by_hand():
    count = np.repeat([1, 2, 3, 50], 7)
    ap = np.repeat([0.1, 0.2, 0.3, 0.4], 7)
    x, mean = mean_over_frequency(count, ap)
    np.testing.assert_allclose(x, [1, 2, 3, 50])
    np.testing.assert_allclose(mean, [0.1, 0.2, 0.3, 0.4])
    # Two left over of the rare ones join the point before them.
    x, mean = mean_over_frequency(np.append(np.repeat(2, 7), [8, 8]), np.append(ap[:7], [1.0, 1.0]))
    np.testing.assert_allclose(x, [2 ** ((7 + 6) / 9)])
    np.testing.assert_allclose(mean, [(0.7 + 2) / 9])
