"""The published tables are what the raw results beside them give."""

import dataclasses
from pathlib import Path

import pytest

from mmdet_eql.analysis.gradient_plot import format_ratios
from mmdet_eql.engine.gradient_file import load_gradient_record
from mmdet_eql.runs.groups import TITLES, group_runs, load_records, with_image_bins
from mmdet_eql.runs.study_file import read_study
from mmdet_eql.runs.sweep_file import read_entries
from mmdet_eql.runs.tables import difference_rows, format_report, mean_rows
from mmdet_eql.utils.markdown import markdown_table
from tests.conftest import CONFIGS, REPOSITORY

DOCS = REPOSITORY / "docs"
#: The studies whose tables are published.
PUBLISHED = [
    *("quickstart", "classifiers", "classifiers-ablations", "classifiers-tails"),
    *("classifiers-lvis", "classifiers-end-to-end"),
    *("minilvis", "minilvis-ablations", "minilvis-dense", "minilvis-crops"),
]
#: The studies of each folder of raw results, and each published table: its folder, the labels of
#: its rows, the baseline's first, and its bins.
STUDIES, TABLES = {}, {}
for name in PUBLISHED:
    study = read_study(CONFIGS / "studies" / f"{name}.yaml")
    for folder in (str(Path(study.folder or name, one_set)) for one_set in study.sets):
        STUDIES.setdefault(folder, []).append(name)
        for table, labels in study.tables.items():
            if not table.startswith("epochs"):  # in one table
                key = f"{folder}: {table} of {name}"
                TABLES[key] = (folder, labels, list(study.image_bins))
STUDIES["quickstart-repeated"] = ["quickstart"]
_, *table = TABLES["quickstart: table of quickstart"]
TABLES["quickstart-repeated"] = ("quickstart-repeated", *table)


def key_of(config, options, seed):
    # Where a machine had the features and the first stage is not part of the experiment.
    places = ("features", "load_from")
    options = {key: value for key, value in options.items() if key not in places}
    return repr((Path(config).stem, sorted(options.items()), seed))


def runs_of(study):
    """Runs that the sweep file of a study asks for, by what they are known by."""
    path = CONFIGS / "studies" / f"{study}.yaml"
    entries = read_entries(path)
    return [key_of(entry.config, entry.options, entry.seed) for entry in entries]


@pytest.fixture(scope="module")
def results():
    """The published runs of each folder."""
    return {folder: load_records([DOCS / "evidence" / folder]) for folder in STUDIES}


@pytest.mark.parametrize("table", TABLES)
def test_the_tables_follow_from_the_results(table, results):
    folder, labels, bins = TABLES[table]
    records = [record for record in results[folder] if record.label in labels]
    if bins:
        records = [with_image_bins(record, bins) for record in records]
    groups = group_runs(sorted(records, key=lambda record: labels.index(record.label)))
    assert [group.label for group in groups] == labels
    assert format_report(groups, groups[0], "welch") in (DOCS / "evidence.md").read_text()


def tables_of_epochs(groups, kind):
    """Means, and differences of EQL to the baseline of as many epochs."""
    metrics = ["AP", "APr", "APc", "APf"]
    pairs = [
        [groups[loss if epochs == 4 else f"{loss}_epochs={epochs}"] for loss in ("sigmoid", "EQL")]
        for epochs in (1, 2, 4, 8, 16)
    ]
    differences = [difference_rows(pair, pair[0], kind, metrics, "welch") for pair in pairs]
    heading = [f"{TITLES[kind]}, EQL minus sigmoid", *metrics]
    return [
        markdown_table(mean_rows([group for pair in pairs for group in pair], kind, metrics)),
        markdown_table([heading, *(rows[1] for rows in differences)]),
    ]


@pytest.mark.parametrize("kind", ["bbox", "bbox_fixed"])
def test_the_gains_over_epochs_follow_from_the_results(kind, results):
    groups = {group.label: group for group in group_runs(results["classifiers"])}
    for table in tables_of_epochs(groups, kind):
        assert table in (DOCS / "evidence.md").read_text()


def test_the_readme_has_the_table_of_the_quickstart(results):
    names = {"sigmoid": "sigmoid", "EQL": "EQL", "RFS": "RFS", "EQL+RFS": "EQL + RFS"}
    readme = (REPOSITORY / "README.md").read_text()
    means = {}
    for group in group_runs(results["quickstart"]):
        means[group.label] = [
            100 * group.values("bbox", name).mean() for name in ("AP", "APr", "APc", "APf")
        ]
    for label, values in means.items():
        row = " | ".join([f"| {names[label]}", *(f"{value:.1f}" for value in values), ""])
        if label != "sigmoid":
            row += f"{values[1] - means['sigmoid'][1]:+.1f} |"
        assert row in readme


def test_the_repetition_agrees_with_the_study(results):
    first = [record for record in results["minilvis"] if record.label == "sigmoid"]
    again = load_records([DOCS / "evidence" / "minilvis-repeated"])
    assert {record.label for record in again} == {"sigmoid"}
    again = [dataclasses.replace(record, label="sigmoid, repeated") for record in again]
    _, _, bins = TABLES["minilvis: losses of minilvis"]
    groups = group_runs([with_image_bins(record, bins) for record in first + again])
    assert format_report(groups, groups[0], "welch") in (DOCS / "evidence.md").read_text()


@pytest.mark.parametrize("folder", STUDIES)
def test_all_runs_are_published_and_no_others(folder, results):
    asked = {key for study in STUDIES[folder] for key in runs_of(study)}
    found = [key_of(r.config, r.options, r.seed) for r in results[folder]]
    assert sorted(found) == sorted(asked)


def records_of(folder, *names):
    return {
        name: load_gradient_record(DOCS / "evidence" / folder / f"{name}.npz") for name in names
    }


def test_the_gradients_of_classifiers_follow_from_the_records():
    records = records_of("classifiers-gradients", "sigmoid", "EQL", "sigmoid+RFS", "EQL+RFS")
    assert format_ratios(records) in (DOCS / "evidence.md").read_text()


def test_the_gradients_follow_from_the_records():
    records = records_of("minilvis-gradients", "sigmoid", "EQL", "RFS", "EQL+RFS")
    text = " ".join((DOCS / "evidence.md").read_text().split())
    assert " ".join(format_ratios(records).split()) in text
    protected = records["sigmoid"].class_frequency.image_count <= 4
    baseline, eql = (
        records[name].negative[-1].sum(axis=0)[protected].sum() for name in ("sigmoid", "EQL")
    )
    assert f"EQL takes away {1 - eql / baseline:.0%}".replace("%", " %") in text
