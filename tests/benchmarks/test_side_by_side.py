"""The harness of the benchmarks: what it counts, not how fast anything is."""

import sys

import numpy as np
import pytest
import torch
from side_by_side import (
    Comparison,
    Limit,
    Run,
    compare,
    compare_runs,
    multiplications,
    peak_memory,
    reported_by,
    table,
)


def comparison(target: float | None = None) -> Comparison:
    ours = [Run(1.0, 1.0, 10.0), Run(2.0, 1.0, 10.0), Run(2.0, 1.0, 10.0)]
    theirs = [Run(wall, 2 * wall, 20.0) for wall in (3.0, 2.0, 8.0)]
    return Comparison("part", "sizes", "rival", ours, theirs, target)


def test_the_ratio_is_the_median_over_the_turns():
    compared = comparison()
    assert compared.ratio() == {"low": 1.0, "median": 3.0, "high": 4.0}
    assert compared.ratio("cpu") == {"low": 4.0, "median": 6.0, "high": 16.0}
    assert compared.medians("wall") == {"ours": 2.0, "rival": 3.0}
    assert compared.medians("memory") == {"ours": 10.0, "rival": 20.0}


@pytest.mark.parametrize(("target", "met"), [(None, None), (3.0, True), (3.1, False)])
def test_whether_a_target_was_met(target, met):
    assert comparison(target).met() is met


def test_workloads_take_turns():
    calls = []

    def runner(name):
        def run():
            calls.append(name)
            return Run(1.0, 1.0)

        return run

    works = {name: runner(name) for name in ("ours", "a", "b")}
    compared = compare_runs("part", "sizes", works, repeats=3)
    assert calls == ["ours", "a", "b"] * 3
    assert [one.rival for one in compared] == ["a", "b"]
    assert [len(one.theirs) for one in compared] == [3, 3]


def test_the_table_has_a_row_for_each_rival():
    compared = [comparison(3.0), comparison()]
    lines = table(compared, Limit(1, 1)).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("| part ")
    assert "3 (1 to 4)" in lines[2]
    assert lines[2].endswith("yes |")
    assert len({line.count("|") for line in lines}) == 1


def test_memory_that_is_freed_again_counts():
    kept = [np.zeros(2**22)]  # 32 MiB that are there before

    def work():
        temporary = torch.ones(2**23)  # 32 MiB
        both = temporary + 1  # 32 MiB more
        del temporary
        return float(both[0]) + kept[0][0]

    assert peak_memory(work) == pytest.approx(64, abs=4)
    assert peak_memory(lambda: None) == pytest.approx(0, abs=2)


def test_a_workload_that_fails_is_told(capfd):
    with pytest.raises(RuntimeError, match="memory was measured"):
        peak_memory(lambda: 1 / 0)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_short_workloads_are_repeated_in_this_process():
    calls = []
    (compared,) = compare(
        "part",
        "sizes",
        {"ours": lambda: calls.append("ours"), "rival": lambda: calls.append("rival")},
        repeats=2,
    )
    assert len(compared.ours) == len(compared.theirs) == 2
    assert calls.count("ours") > 10  # they take microseconds


def test_the_limit_is_the_slower_of_bytes_and_multiplications():
    rates = Limit(bytes=10, multiplications=100)
    assert Limit(bytes=20).seconds(rates) == 2
    assert Limit(20, 500).seconds(rates) == 5
    compared = Comparison("part", "sizes", "rival", [Run(1, 8)], [Run(1, 1)], limit=Limit(20))
    assert compared.reached(rates) == 0.25
    assert compared.metrics(rates)["limit_seconds"] == 2


def test_multiplications_are_counted():
    left, right = torch.ones(3, 4), torch.ones(4, 5)
    assert multiplications(lambda: left @ right) == 3 * 4 * 5


def test_a_command_that_fails_is_told():
    with pytest.raises(RuntimeError, match="NameError"):
        reported_by([sys.executable, "-S", "-c", "nonsense"])


def test_a_command_can_report_on_itself():
    code = "import json, os; print('a message'); print(json.dumps(os.environ['OMP_NUM_THREADS']))"
    assert reported_by([sys.executable, "-S", "-c", code]) == "1"
