"""Progress on the terminal and in a file."""

import io
import math

import pytest
from rich.console import Console

from mmdet_eql.runs import progress
from mmdet_eql.runs.execution import RunStatus
from mmdet_eql.runs.progress import BarDisplay, LineDisplay, make_display, time_left

TRAINING = RunStatus("EQL", "training", 600, 2400, 0.25)
STARTING = RunStatus("baseline", "starting")
EVALUATING = RunStatus("baseline", "evaluating", 10, 250, 0.5)
DONE = RunStatus("EQL", "done")
FAILED = RunStatus("[bold]", "failed", reason="failed with exit status 1: ValueError: [x]")


def test_bars_name_stage_speed_and_time_left():
    terminal = io.StringIO()
    with BarDisplay(Console(file=terminal, force_terminal=True, width=120)) as display:
        display.show([STARTING, TRAINING, FAILED], 450.0)
        display.show([EVALUATING, DONE, FAILED], 120.0)
    text = terminal.getvalue()
    for part in ("starting", "training 600/2400 0.25 s/it", "0 of 3 done, 1 failed, about 8 min"):
        assert part in text
    for part in ("evaluating 10/250 0.50 s/batch", "1 of 3 done, 1 failed, about 2 min left"):
        assert part in text
    assert text.count("done EQL") == 1
    assert text.count("FAILED [bold]: failed with exit status 1: ValueError: [x]") == 1


def test_a_line_per_interval_and_stage(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    validating = RunStatus("EQL", "evaluating", 1, 25, 0.5)
    display = LineDisplay()
    for seconds, statuses, left in (
        (0, [STARTING, TRAINING], math.nan),
        (10, [STARTING, TRAINING], math.nan),
        (20, [STARTING, validating], math.nan),
        (31, [STARTING, TRAINING], math.nan),
        (32, [EVALUATING, TRAINING], 450.0),
        (33, [EVALUATING, TRAINING], 450.0),
        (34, [EVALUATING, DONE], 120.0),
        (35, [DONE, FAILED], math.nan),
    ):
        now[0] = seconds
        display.show(statuses, left)
    assert capsys.readouterr().out.splitlines() == [
        "  0 of 2 done; baseline starting; EQL training 600/2400, 0.25 s/it",
        "  0 of 2 done; baseline starting; EQL training 600/2400, 0.25 s/it",
        "  0 of 2 done; baseline evaluating 10/250, 0.50 s/batch; EQL training 600/2400, "
        "0.25 s/it; about 8 min left",
        "  done EQL",
        "  1 of 2 done; baseline evaluating 10/250, 0.50 s/batch; about 2 min left",
        "  FAILED [bold]: failed with exit status 1: ValueError: [x]",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (450.0, "about 8 min left"),
        (89.0, "about 90 s left"),
        (90.0, "about 2 min left"),
        (0.4, "about 10 s left"),
        (36000.0, "about 10 h left"),
        (0.0, ""),
        (math.nan, ""),
    ],
)
def test_time_left(seconds, text):
    assert time_left(seconds) == text


def test_no_bars_without_a_terminal(monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("TERM", "dumb")
    with make_display() as display:
        assert isinstance(display, LineDisplay)
