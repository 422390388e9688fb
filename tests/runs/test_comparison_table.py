"""Runs in a Markdown table."""

import doctest
import math
from pathlib import Path

import pytest

from mmdet_eql.runs import comparison_table
from mmdet_eql.runs.comparison_table import format_table
from mmdet_eql.runs.run_results import RunResult


def run(**kinds: tuple[float, ...]) -> RunResult:
    figures = {
        kind: dict(zip(("AP", "APr", "APc", "APf"), values, strict=True))
        for kind, values in kinds.items()
    }
    return RunResult(Path("run"), Path("log"), figures, {})


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_boxes_masks_and_difference():
    runs = {
        "baseline": run(bbox=(0.2123, 0.032, 0.211, 0.287), segm=(0.2, 0.05, 0.1, 0.3)),
        "EQL": run(bbox=(0.24, 0.094, 0.252, 0.284), segm=(0.2, 0.0, 0.1004, 1.0)),
    }
    rows = cells(format_table(runs, ("EQL", "baseline"), "val"))
    assert rows[0] == ["val", "box AP", "APr", "APc", "APf", "mask AP", "APr", "APc", "APf"]
    assert rows[2] == ["baseline", "21.2", "3.2", "21.1", "28.7", "20.0", "5.0", "10.0", "30.0"]
    assert rows[3] == ["EQL", "24.0", "9.4", "25.2", "28.4", "20.0", "0.0", "10.0", "100.0"]
    assert rows[4] == [
        *("EQL minus baseline", "+2.8", "+6.2", "+4.1", "-0.3"),
        *("+0.0", "-5.0", "+0.0", "+70.0"),
    ]


def test_lines_are_aligned_markdown():
    runs = {"a": run(bbox=(0.1, 0.2, 0.3, 0.4)), "a longer name": run(bbox=(1.0, 0, 0, 0))}
    lines = format_table(runs, ("a", "a longer name")).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert set(lines[1]) == set("|:-")


def test_no_ground_truth_is_a_dash():
    runs = {
        "a": run(bbox=(0.1, math.nan, 0.3, 0.4)),
        "b": run(bbox=(0.1, 0.2, 0.3, 0.4), segm=(0.1, 0.2, 0.3, 0.4)),
    }
    rows = cells(format_table(runs, ("b", "a")))
    assert rows[2][2] == "-"
    assert rows[2][5:] == ["-"] * 4
    assert rows[4][2] == "-"
    assert rows[4][1] == "+0.0"


def test_a_tiny_loss_is_no_negative_zero():
    runs = {"a": run(bbox=(0.2, 0.2, 0.2, 0.2)), "b": run(bbox=(0.1999, 0.2, 0.2, 0.2))}
    assert cells(format_table(runs, ("b", "a")))[4][1] == "+0.0"


@pytest.mark.parametrize(("kind", "name"), [("bbox", "box"), ("segm", "mask")])
def test_kinds_that_no_run_has_are_left_out(kind, name):
    rows = cells(format_table({"a": run(**{kind: (0.1, 0.2, 0.3, 0.4)})}))
    assert rows[0] == ["", f"{name} AP", "APr", "APc", "APf"]


def test_the_example_of_the_documentation():
    assert doctest.testmod(comparison_table).failed == 0
    assert doctest.testmod(comparison_table).attempted > 0


def test_the_difference_is_that_of_the_figures_shown():
    runs = {"a": run(bbox=(0.01349, 0.1, 0.1, 0.1)), "b": run(bbox=(0.01351, 0.1004, 0.1, 0.1))}
    rows = cells(format_table(runs, ("b", "a")))
    assert [row[1] for row in rows[2:]] == ["1.3", "1.4", "+0.1"]
    assert [row[2] for row in rows[2:]] == ["10.0", "10.0", "+0.0"]
