"""Runs grouped, compared and shown, from result.json files as sweeps leave them."""

import csv
import dataclasses
import html.parser
import io
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mmdet_eql.runs.groups import (
    bin_names,
    group_runs,
    kinds_of,
    load_records,
    parse_bounds,
    unfinished_runs,
    with_image_bins,
)
from mmdet_eql.runs.page import format_page
from mmdet_eql.runs.records import RunRecord, load_record, make_record, record_run
from mmdet_eql.runs.statistics import compare
from mmdet_eql.runs.tables import format_csv, format_report
from mmdet_eql.utils.errors import UserError

# Left by a sweep of sigmoid and EQL, two seeds each, on a MiniLVIS of 12 categories.
RESULTS = Path(__file__).parent / "results"


@pytest.fixture(scope="module")
def groups():
    return group_runs(load_records([RESULTS]))


def run(label: str, seed: int | None, ap: float, **changes) -> RunRecord:
    record = RunRecord(
        name=f"{label}_seed={seed}",
        label=label,
        config=label,
        options={},
        seed=seed,
        identity=f"{label}{seed}{ap}",
        experiment=f"experiment of {label}",
        figures={"bbox": {"AP": ap}},
    )
    return dataclasses.replace(record, **changes)


def group(label: str, values, seeds=None):
    seeds = range(len(values)) if seeds is None else seeds
    runs = [run(label, seed, value) for seed, value in zip(seeds, values, strict=True)]
    return group_runs(runs)[0]


def test_seeds_are_taken_together(groups):
    assert [item.label for item in groups] == ["eql", "sigmoid"]
    assert [[record.seed for record in item.records] for item in groups] == [[0, 1], [0, 1]]
    columns = ["AP", "AP50", "AP75", "APr", "APc", "APf"]
    assert kinds_of(groups) == {"bbox": columns, "segm": columns}


def test_the_table_shows_mean_and_deviation(groups):
    report = format_report(groups, groups[1], "welch")
    for item in groups:
        values = 100 * item.values("bbox", "AP50")
        assert f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" in report
    assert "box AP minus sigmoid" in report
    assert "Welch's t-test" in report


def test_csv_holds_all_figures_in_full(groups):
    rows = list(csv.DictReader(io.StringIO(format_csv(groups, groups[1], "paired"))))
    assert len(rows) == 2 * sum(map(len, kinds_of(groups).values()))
    for row in rows:
        item = next(each for each in groups if each.label == row["label"])
        values = item.values(row["kind"], row["figure"])
        np.testing.assert_array_equal([float(value) for value in row["values"].split()], values)
        if not np.isnan(values).any():
            assert float(row["mean"]) == values.mean()
            assert float(row["std"]) == values.std(ddof=1)
        assert (row["difference"] == "") == (item is groups[1] or np.isnan(values).any())


def test_intervals_over_images_stand_beside_the_spread_over_seeds():
    ends = [(0.1, 0.3), (0.2, 0.4)]
    runs = [
        run("eql", seed, 0.25, figures={"bbox": {"AP": 0.25, "AP_low": low, "AP_high": high}})
        for seed, (low, high) in enumerate(ends)
    ]
    with_ends, without = *group_runs(runs), group("sigmoid", [0.2, 0.3])
    report = format_report([with_ends, without], without, "welch")
    assert re.search(r"\| eql, over images +\| +\| +15.0 to 35.0 \|", report)
    assert report.count("over images") == 1
    assert " Over images: the 95 % interval" in report
    assert "Over images" not in format_report([without], without, "welch")
    row = next(csv.DictReader(io.StringIO(format_csv([with_ends, without], without, "welch"))))
    assert float(row["images_low"]) == pytest.approx(0.15)
    assert "<td>eql, over images" in format_page([with_ends, without], without, "welch")


class _Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href", "xlink:href")]


def test_the_page_needs_nothing_else(groups):
    text = format_page(groups, groups[1], "welch", title="a <b> & c")
    page = _Page()
    page.feed(text)
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"url\((?!#)|@import|<script", text)
    assert "<title>a &lt;b&gt; &amp; c</title>" in text
    pictures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    # Figures, categories, gains, and two learning curves; of boxes and of masks.
    assert len(pictures) == 10
    for picture in pictures:
        words = "".join(ElementTree.fromstring(picture).itertext())
        assert "eql" in words
    assert format_page(groups, groups[1], "welch", title="a <b> & c") == text


def test_the_tool_writes_all_of_them(call_tool, tmp_path, groups):
    options = ["--baseline", "sigmoid", "--test", "paired", "--markdown", "a.md", "--csv", "a.csv"]
    done = call_tool("analysis/compare_runs.py", RESULTS, *options, "--html", "a.html", check=True)
    ordered = [groups[1], groups[0]]
    report = format_report(ordered, groups[1], "paired")
    assert done.stdout == (tmp_path / "a.md").read_text() == report + "\n"
    assert (tmp_path / "a.csv").read_text() == format_csv(ordered, groups[1], "paired")
    assert (tmp_path / "a.html").read_text() == format_page(ordered, groups[1], "paired")
    assert "by training images" not in report
    binned = call_tool("analysis/compare_runs.py", RESULTS, "--image-bins", "10,20", check=True)
    assert "| box AP by training images (%) | n |" in re.sub(" +", " ", binned.stdout)
    assert "mask AP by training images minus eql" in binned.stdout
    wrong = call_tool("analysis/compare_runs.py", RESULTS, "--baseline", "softmax")
    assert wrong.returncode == 2
    assert "give one of eql, sigmoid" in wrong.stderr


@given(st.sets(st.integers(1, 200), min_size=1, max_size=4).map(sorted))
def test_bins_take_the_categories_apart(bounds):
    for record in load_records([RESULTS]):
        binned = with_image_bins(record, bounds).figures
        assert {kind: binned[kind] for kind in record.figures} == record.figures
        for kind, of_category in record.category_figures.items():
            lows, highs = [-1, *bounds], [*bounds, math.inf]
            assert list(binned[f"{kind} by images"]) == bin_names(bounds)
            for low, high, found in zip(
                lows, highs, binned[f"{kind} by images"].values(), strict=True
            ):
                inside = [
                    of_category[name]
                    for name, count in record.image_count.items()
                    if low < count <= high and not math.isnan(of_category[name])
                ]
                expected = np.mean(inside) if inside else math.nan
                assert found == pytest.approx(expected, nan_ok=True)


def test_bins_at_the_bounds_of_lvis_are_its_groups(groups):
    for record in groups[0].records:
        binned = with_image_bins(record, [10, 100]).figures
        for kind in ("bbox", "segm"):
            rare_common_frequent = [record.figures[kind][name] for name in ("APr", "APc", "APf")]
            found = list(binned[f"{kind} by images"].values())
            # Figures of categories are kept to five digits.
            assert found == pytest.approx(rare_common_frequent, abs=1e-5, nan_ok=True)


def test_wrong_bins_are_told():
    for text in ("", "a", "4,", "0,4", "10,4", "4,4"):
        with pytest.raises(UserError, match="ascending numbers"):
            parse_bounds(text)
    with pytest.raises(UserError, match="classwise=True"):
        with_image_bins(run("a", 0, 0.1), [4])


def test_runs_are_found_in_all_kinds_of_folders(tmp_path):
    source = sorted(RESULTS.glob("*.json"))
    for path in source:
        folder = tmp_path / "sweep" / path.stem
        folder.mkdir(parents=True)
        (folder / "result.json").write_bytes(path.read_bytes())
    expected = load_records([RESULTS])
    assert load_records([tmp_path / "sweep"]) == expected
    assert load_records(sorted((tmp_path / "sweep").iterdir())) == expected
    assert load_records([*source, RESULTS, tmp_path / "sweep"]) == expected
    assert unfinished_runs([tmp_path / "sweep", *source]) == []
    (tmp_path / "sweep" / "begun").mkdir()
    (tmp_path / "sweep" / "begun" / "sweep_run.json").touch()
    assert unfinished_runs([tmp_path / "sweep"]) == [tmp_path / "sweep" / "begun"]
    assert load_records([tmp_path / "sweep"]) == expected
    (tmp_path / "empty").mkdir()
    for path in ("empty", "gone"):
        with pytest.raises(UserError, match=path):
            load_records([tmp_path / path])


def write_logs(work_dir: Path, seed: int | None, top1: float = 50.0, **config) -> Path:
    """The work_dir of a training that was validated after 3 epochs."""
    logs = work_dir / "20250101_000000" / "vis_data"
    logs.mkdir(parents=True)
    scalars = {"accuracy/top1": top1, "accuracy/red fox_accuracy": 25.0, "step": 3}
    (logs / "scalars.json").write_text(json.dumps(scalars))
    config |= dict(randomness=dict(seed=seed), lr=1, work_dir=str(work_dir))
    text = "".join(f"{key} = {value!r}\n" for key, value in config.items())
    for path in (work_dir / "config.py", logs / "config.py"):
        path.write_text(text)
    return work_dir


def test_a_run_without_a_sweep_is_read_from_its_logs(tmp_path):
    paths = [write_logs(tmp_path / f"run_{seed}", seed, 50.0 + seed) for seed in (0, 1)]
    records = [make_record(path) for path in paths]
    item = group_runs(records)
    assert len(item) == 1
    assert item[0].label == "config"
    assert [record.seed for record in item[0].records] == [0, 1]
    assert item[0].values("accuracy", "top1").tolist() == [0.5, 0.51]
    assert item[0].category_values("accuracy", ["red fox", "gone"])[0] == 0.25
    assert load_record(tmp_path / "run_0") == records[0]
    record_run(tmp_path / "run_0")
    assert load_record(tmp_path / "run_0") == records[0]


def test_equal_labels_of_different_experiments_are_told_apart():
    records = [run("a", 0, 0.1), run("a", 0, 0.2, experiment="other")]
    assert [item.label for item in group_runs(records)] == ["a", "a (other)"]


fractions = st.lists(st.floats(0, 1).map(lambda x: round(x, 3)), min_size=2, max_size=6)


@given(fractions, fractions)
def test_welch_by_its_formula(ours, theirs):
    found = compare(group("a", ours), group("b", theirs), "bbox", "AP", "welch")
    a, b = np.array(ours), np.array(theirs)
    assert found.mean == pytest.approx(a.mean() - b.mean())
    variances = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    if sum(variances) < 1e-12:
        return
    freedom = sum(variances) ** 2 / sum(
        v**2 / (n - 1) for v, n in zip(variances, (len(a), len(b)), strict=True)
    )
    half = stats.t.ppf(0.975, freedom) * math.sqrt(sum(variances))
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))
    # The interval and the mark tell the same.
    if abs(found.p - 0.05) > 1e-6:
        assert bool(found.mark) == (found.low > 0 or found.high < 0)


def test_pairing_takes_the_seed_s_part_away():
    base = [0.10, 0.20, 0.30]
    better = [0.111, 0.212, 0.313]
    ours, theirs = group("a", better), group("b", base)
    assert compare(ours, theirs, "bbox", "AP", "welch").mark == ""
    found = compare(ours, theirs, "bbox", "AP", "paired")
    half = stats.t.ppf(0.975, 2) * 0.001 / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((0.012 - half, 0.012 + half))
    assert found.mark == "**"
    with pytest.raises(UserError, match="needs runs of the same seeds"):
        compare(group("a", better, [0, 1, 3]), theirs, "bbox", "AP", "paired")


def test_what_cannot_be_tested_has_no_mark():
    for ours, theirs in (([0.3], [0.1, 0.2]), ([0.3, 0.3], [0.1, 0.1]), ([0.3, math.nan], [0, 1])):
        found = compare(group("a", ours), group("b", theirs), "bbox", "AP", "welch")
        assert math.isnan(found.p)
        assert found.mark == ""
    alone = group("a", [0.3])
    assert "30.0 |" in format_report([alone], alone, "welch")
    assert "<svg" in format_page([alone], alone, "welch")
    with pytest.raises(UserError, match="no runs to compare"):
        group_runs([])


def test_runs_of_the_same_config_all_count(tmp_path):
    unseeded = [write_logs(tmp_path / name, None, ap) for name, ap in (("a", 50.0), ("b", 51.0))]
    (item,) = group_runs(load_records([*unseeded, unseeded[0]]))
    assert item.values("accuracy", "top1").tolist() == [0.5, 0.51]
    seeded = [write_logs(tmp_path / name, 7, ap) for name, ap in (("c", 50.0), ("d", 51.0))]
    with pytest.warns(UserWarning, match="c and d have the same config and seed"):
        (item,) = group_runs(load_records(seeded))
    assert len(item.records) == 2
    # Not the same experiment, though only what they began from differs.
    other = write_logs(tmp_path / "other", 7, load_from="pretrained.pth")
    assert [item.label for item in group_runs(load_records([seeded[0], other]))] == ["c", "other"]
    # Resumed later, and tested.
    for path in (other / "config.py", seeded[0] / "config.py"):
        path.write_text(path.read_text() + "resume = True\nload_from = 'epoch_2.pth'\n")
    assert [item.label for item in group_runs(load_records([seeded[0], other]))] == ["c", "other"]


def test_runs_that_were_evaluated_on_different_files(tmp_path):
    evaluators = dict(
        val_evaluator=dict(type="LVISFastMetric", ann_file="val.json"),
        test_evaluator=[dict(type="Other"), dict(type="LVISFastMetric", ann_file="test.json")],
    )
    a, b = (write_logs(tmp_path / name, 0, name=name, **evaluators) for name in "ab")
    # Trainings write their validations there, too.
    (a / "20250101_000000" / "20250101_000000.json").write_text('{"accuracy/top1": 50.0}')
    assert [record.evaluated_on for record in load_records([a, b])] == ["val.json"] * 2
    tested = b / "20250102_000000" / "20250102_000000.json"
    tested.parent.mkdir()
    tested.write_text(json.dumps({"accuracy/top1": 60.0}))
    with pytest.warns(UserWarning, match=r"compared: a on val\.json, b on test\.json"):
        group_runs(load_records([a, b]))


def test_runs_that_were_evaluated_otherwise_by_the_same_path(tmp_path, recwarn):
    ann_file = tmp_path / "val.json"
    ann_file.write_text("{}")
    evaluator = dict(type="LVISFastMetric", ann_file=str(ann_file))
    a, b = (write_logs(tmp_path / name, 0, name=name, val_evaluator=evaluator) for name in "ab")
    c = write_logs(tmp_path / "c", 0, val_evaluator=[dict(evaluator, max_detections=100)])
    record_run(a)
    group_runs(load_records([a, b]))
    assert not recwarn
    with pytest.warns(UserWarning, match="same annotations with the same .*: a on .*, c on "):
        group_runs(load_records([a, c]))
    # The content alone counts.
    moved = dataclasses.replace(load_record(a), evaluated_on="elsewhere.json")
    recwarn.clear()
    group_runs([moved, load_record(b)])
    assert not recwarn
    ann_file.write_text("{ }")
    with pytest.warns(UserWarning, match="same annotations with the same .*: a on .*, b on "):
        group_runs(load_records([a, b]))


def test_weights_that_have_changed_between_runs_that_began_from_them(
    tmp_path, monkeypatch, recwarn
):
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "pretrained.pth"
    weights.write_bytes(b"1")
    a, b = (write_logs(tmp_path / name, 0, name=name, load_from=str(weights)) for name in "ab")
    record_run(a)
    assert load_record(a).training["begun_from"][0] == "pretrained.pth"
    group_runs(load_records([a, b]))
    assert not recwarn
    weights.write_bytes(b"2")
    with pytest.warns(UserWarning, match=r"pretrained\.pth, which a and b began from, has changed"):
        group_runs(load_records([a, b]))


def test_groups_with_training_sets_of_other_counts(recwarn):
    runs = [run(name, 0, 0.1, image_count={"cat": 3, "dog": 1}) for name in "ab"]
    group_runs([*runs, run("c", 0, 0.1)])
    assert not recwarn
    with pytest.warns(UserWarning, match="a and b have training sets of other image counts"):
        group_runs([runs[0], dataclasses.replace(runs[1], image_count={"cat": 3, "dog": 9})])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(training={"gpus": 8}), "were trained by 1 and 8 processes"),
        (dict(training={"tested": "best.pth"}), "of its last checkpoint and best.pth"),
        (dict(image_count={"cat": 4}), "annotation file of their training images has changed"),
    ],
)
def test_runs_of_a_group_that_no_config_tells_apart(changes, sentence, recwarn):
    first = run("a", 0, 0.1, training={"gpus": 1}, image_count={"cat": 3})
    with pytest.warns(UserWarning, match=f"a_seed=0 and a_seed=1 are the same .* {sentence}"):
        group_runs([first, run("a", 1, 0.2, **changes)])
    recwarn.clear()
    group_runs([first, run("a", 1, 0.2)])
    assert not recwarn


def test_what_no_config_shows_comes_from_the_logs(tmp_path):
    a = write_logs(tmp_path / "a", 0, load_from="out/epoch_2.pth")
    start = a / "20250101_000000"
    (start / "20250101_000000.log").write_text("System environment:\n    GPU number: 4\n")
    assert make_record(a).training["gpus"] == 4
    (a / "last_checkpoint").write_text("elsewhere/epoch_3.pth")
    tested = a / "20250102_000000" / "20250102_000000.json"
    tested.parent.mkdir()
    tested.write_text(json.dumps({"accuracy/top1": 60.0}))
    assert make_record(a).training["tested"] == "epoch_2.pth"
    (a / "last_checkpoint").write_text("elsewhere/epoch_2.pth")
    assert "tested" not in make_record(a).training


def test_a_run_of_a_sweep_with_other_metrics(tmp_path):
    content = json.loads(next(RESULTS.glob("*.json")).read_text())
    paths = [tmp_path / "first.json", tmp_path / "again.json"]
    for path, ap in zip(paths, (0.1, 0.2), strict=True):
        content["figures"]["bbox"]["AP"] = ap
        path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=r"again.json: is left out, since .* is the same run"):
        (record,) = load_records(paths)
    assert record.figures["bbox"]["AP"] == 0.1


def test_a_training_that_is_not_done_is_named(call_tool, tmp_path):
    done = write_logs(tmp_path / "done", 0, train_cfg=dict(max_epochs=3))
    begun = write_logs(tmp_path / "begun", 1, train_cfg=dict(max_epochs=12))
    # By epochs, iterations are not logged.
    loop = write_logs(tmp_path / "loop", 2, train_cfg=dict(max_iters=90_000))
    result = call_tool("analysis/compare_runs.py", done, begun, loop, check=True)
    assert "begun: its training is not done, but was validated at epoch 3 of 12" in result.stderr
    assert result.stderr.count("not done") == 1
