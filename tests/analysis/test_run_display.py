"""Progress on the terminal and in a file."""

import io
import math

import pytest
from rich.console import Console

from mmdet_eql.analysis import run_display
from mmdet_eql.analysis.parallel_training import RunStatus
from mmdet_eql.analysis.run_display import BarDisplay, LineDisplay, make_display, time_left

TRAINING = RunStatus("EQL", "training", 600, 2400, 0.25, 450.0)
STARTING = RunStatus("baseline", "starting", 0, 2400)
EVALUATING = RunStatus("baseline", "evaluating", 10, 250, 0.5, 120.0)
DONE = RunStatus("EQL", "done", 2400, 2400, seconds_left=0.0)


def test_bars_name_stage_speed_and_time_left():
    terminal = io.StringIO()
    with BarDisplay(Console(file=terminal, force_terminal=True, width=120)) as display:
        display.show([STARTING, TRAINING])
        display.show([EVALUATING, DONE])
    text = terminal.getvalue()
    for part in ("starting", "0/2400", "600/2400", "0.25 s/it, about 8 min left"):
        assert part in text
    for part in ("evaluating", "10/250", "0.50 s/batch, about 2 min left", "done", "2400/2400"):
        assert part in text


def test_a_line_per_interval_and_stage(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(run_display.time, "monotonic", lambda: now[0])
    with LineDisplay() as display:
        for seconds, statuses in (
            (0, [STARTING, TRAINING]),
            (10, [STARTING, TRAINING]),
            (29, [STARTING, TRAINING]),
            (31, [STARTING, TRAINING]),
            (32, [EVALUATING, TRAINING]),
            (33, [EVALUATING, TRAINING]),
            (34, [EVALUATING, DONE]),
        ):
            now[0] = seconds
            display.show(statuses)
    assert capsys.readouterr().out.splitlines() == [
        "  baseline starting 0/2400; EQL training 600/2400, 0.25 s/it",
        "  baseline starting 0/2400; EQL training 600/2400, 0.25 s/it",
        "  baseline evaluating 10/250, 0.50 s/batch; EQL training 600/2400, 0.25 s/it; "
        "about 8 min left",
        "  baseline evaluating 10/250, 0.50 s/batch; EQL done; about 2 min left",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ([450.0, 100.0], "about 8 min left"),
        ([89.0], "about 90 s left"),
        ([90.0], "about 2 min left"),
        ([0.4], "about 10 s left"),
        ([math.nan, 50.0], ""),
    ],
)
def test_the_slowest_run_counts(seconds, text):
    assert time_left([RunStatus("a", "training", 1, 9, 1.0, left) for left in seconds]) == text


def test_nothing_is_left_of_what_is_done():
    assert time_left([DONE, DONE]) == ""


def test_no_bars_without_a_terminal(monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_display(), LineDisplay)
