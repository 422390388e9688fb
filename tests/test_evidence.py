"""The published tables are what the raw results beside them give."""

from pathlib import Path

import pytest

from mmdet_eql.analysis.comparison_report import format_report
from mmdet_eql.analysis.run_groups import group_runs, load_records
from mmdet_eql.sweep.sweep_file import entries_of, read_sweep_file
from tests.conftest import CONFIGS, REPOSITORY

DOCS = REPOSITORY / "docs"
#: The folder of raw results, and the baseline, of each study.
STUDIES = {"minilvis-crops": ("minilvis-crops", "softmax")}


def key_of(config, options, seed):
    return repr((Path(config).stem, sorted(options.items()), seed))


def runs_of(study):
    """Runs that the sweep file of a study asks for, by what they are known by."""
    path = CONFIGS / "studies" / f"{study}.yaml"
    entries = entries_of(read_sweep_file(path), path.name)
    return [key_of(entry.config, entry.options, entry.seed) for entry in entries]


@pytest.fixture(scope="module")
def results():
    """The published runs of each folder, by what they are known by."""
    return {
        folder: {
            key_of(r.config, r.options, r.seed): r
            for r in load_records([DOCS / "evidence" / folder])
        }
        for folder, _ in STUDIES.values()
    }


@pytest.mark.parametrize("study", STUDIES)
def test_the_table_follows_from_the_results(study, results):
    folder, baseline = STUDIES[study]
    asked = set(runs_of(study))
    groups = group_runs([record for key, record in results[folder].items() if key in asked])
    groups.sort(key=lambda group: group.label != baseline)
    assert format_report(groups, groups[0], "welch") in (DOCS / "evidence.md").read_text()


@pytest.mark.parametrize("folder", sorted({folder for folder, _ in STUDIES.values()}))
def test_all_runs_are_published_and_no_others(folder, results):
    asked = {key for study, (of, _) in STUDIES.items() if of == folder for key in runs_of(study)}
    assert set(results[folder]) == asked
    assert len(results[folder]) == len(list((DOCS / "evidence" / folder).glob("*.json")))
