"""The published tables are what the raw results beside them give."""

from pathlib import Path

import pytest

from mmdet_eql.analysis.comparison_report import format_report
from mmdet_eql.analysis.image_bins import with_image_bins
from mmdet_eql.analysis.run_groups import group_runs, load_records
from mmdet_eql.sweep.sweep_file import entries_of, read_sweep_file
from tests.conftest import CONFIGS, REPOSITORY

DOCS = REPOSITORY / "docs"
BINS = [4, 10, 100]
#: The studies of each folder of raw results.
STUDIES = {"minilvis-crops": ["minilvis-crops"]}
#: Of each published table: its folder, the labels of its rows, the baseline's first, and its bins.
TABLES = {
    "minilvis-crops": (
        "minilvis-crops",
        ["softmax", "SEQL", "balanced-softmax", "cRT", "class-balanced_beta=0.9", "class-balanced"],
        None,
    ),
}


def key_of(config, options, seed):
    return repr((Path(config).stem, sorted(options.items()), seed))


def runs_of(study):
    """Runs that the sweep file of a study asks for, by what they are known by."""
    path = CONFIGS / "studies" / f"{study}.yaml"
    entries = entries_of(read_sweep_file(path), path.name)
    return [key_of(entry.config, entry.options, entry.seed) for entry in entries]


@pytest.fixture(scope="module")
def results():
    """The published runs of each folder."""
    return {folder: load_records([DOCS / "evidence" / folder]) for folder in STUDIES}


@pytest.mark.parametrize("table", TABLES)
def test_the_tables_follow_from_the_results(table, results):
    folder, labels, bins = TABLES[table]
    records = [record for record in results[folder] if record.label in labels]
    if bins is not None:
        records = [with_image_bins(record, bins) for record in records]
    groups = group_runs(sorted(records, key=lambda record: labels.index(record.label)))
    assert [group.label for group in groups] == labels
    assert format_report(groups, groups[0], "welch") in (DOCS / "evidence.md").read_text()


@pytest.mark.parametrize("folder", STUDIES)
def test_all_runs_are_published_and_no_others(folder, results):
    asked = {key for study in STUDIES[folder] for key in runs_of(study)}
    found = [key_of(r.config, r.options, r.seed) for r in results[folder]]
    assert sorted(found) == sorted(asked)
