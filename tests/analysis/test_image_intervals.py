"""Gains of groups of runs, with intervals over images."""

import json
import re
from pathlib import Path

import pytest

from mmdet_eql.analysis.image_intervals import gain_table
from mmdet_eql.evaluation import compare_files
from tests.evaluation.federated_sets import counted_in_training, make_federated_set, save


def rows_of(table: str) -> dict[str, list[list[float]]]:
    """Numbers of each cell by the name of the row: a gain and the ends of its interval."""
    rows = {}
    for line in table.splitlines()[2:]:
        if line.startswith("|"):
            name, *cells = line.strip("| ").split(" | ")
            rows[name.strip()] = [[float(n) for n in re.findall(r"[-+][\d.]+", c)] for c in cells]
    return rows


@pytest.fixture
def files(tmp_path):
    """An annotation file and three result files."""
    data, results = make_federated_set(4, num_images=20)
    paths = []
    for number, share in enumerate((0.5, 0.7, 0.9)):
        folder = tmp_path / str(number)
        folder.mkdir()
        ann_file, path = save(folder, data, results[: int(share * len(results))])
        paths.append(str(path))
    return str(ann_file), paths


def test_of_single_runs_it_is_what_a_file_gains_over_another(files):
    ann_file, (first, _, last) = files
    table = gain_table(ann_file, {"some": [first], "more": [last]}, 50)
    gain = compare_files(ann_file, [first, last], bootstrap=50)[1].gain
    assert table.startswith("| box AP minus some, over images |")
    (cells,) = rows_of(table).values()
    for cell, name in zip(cells, ("AP", "APr", "APc", "APf"), strict=True):
        expected = [gain.metrics[name], *gain.intervals[name]]
        assert cell == pytest.approx([100 * number for number in expected], abs=0.0501)


def test_a_group_has_the_mean_of_its_runs(files):
    ann_file, (first, middle, last) = files
    alone = rows_of(gain_table(ann_file, {"a": [first], "b": [middle], "c": [last]}, 5))
    both = rows_of(gain_table(ann_file, {"a": [first], "b": [middle, last]}, 5))
    for cell, one, other in zip(both["b"], alone["b"], alone["c"], strict=True):
        assert cell[0] == pytest.approx((one[0] + other[0]) / 2, abs=0.11)


def test_groups_and_limits_are_those_of_the_evaluator(files, tmp_path):
    ann_file, (first, _, last) = files
    given = {"some": [first], "more": [last]}
    data, training = counted_in_training(json.loads(Path(ann_file).read_text()))
    bare, train = tmp_path / "bare.json", tmp_path / "train.json"
    bare.write_text(json.dumps(data))
    train.write_text(json.dumps(training))
    whole = gain_table(ann_file, given, 5)
    assert gain_table(str(bare), given, 5, str(train)) == whole
    assert gain_table(ann_file, given, 5, max_detections=3) != whole
