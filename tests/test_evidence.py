"""The published tables are what the raw results beside them give."""

from pathlib import Path

import pytest

from mmdet_eql.analysis.comparison_report import format_report
from mmdet_eql.analysis.run_groups import group_runs, load_records
from mmdet_eql.sweep.sweep_file import entries_of, read_sweep_file
from tests.conftest import CONFIGS, REPOSITORY

DOCS = REPOSITORY / "docs"
BASELINES = {"minilvis-crops": "softmax"}


@pytest.fixture(params=BASELINES)
def study(request):
    """Name of a study, and its groups with the baseline first."""
    groups = group_runs(load_records([DOCS / "evidence" / request.param]))
    return request.param, sorted(groups, key=lambda g: g.label != BASELINES[request.param])


def test_the_table_follows_from_the_results(study):
    _, groups = study
    assert format_report(groups, groups[0], "welch") in (DOCS / "evidence.md").read_text()


def test_every_run_of_the_study_is_there(study):
    name, groups = study
    path = CONFIGS / "studies" / f"{name}.yaml"
    expected = [
        (Path(entry.config).stem, dict(entry.options), entry.seed)
        for entry in entries_of(read_sweep_file(path), path.name)
    ]
    found = [(r.config, r.options, r.seed) for group in groups for r in group.records]
    assert sorted(map(repr, found)) == sorted(map(repr, expected))
