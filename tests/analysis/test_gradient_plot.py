"""Records of gradients, their ratios, and the picture of them."""

import dataclasses
import re

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmdet_eql.analysis.gradient_plot import format_ratios, plot_gradients
from mmdet_eql.engine.gradient_file import (
    empty_record,
    gradient_ratio,
    group_medians,
    load_gradient_record,
    pool_records,
)
from mmdet_eql.frequency import ClassFrequency
from mmdet_eql.utils.errors import UserError

COUNTS = np.array([5, 700, 60, 2, 30, 400, 8, 0])
FREQUENCY = ClassFrequency(COUNTS, 2 * COUNTS, 1000, tuple("abcdefgh"))


def make_record(factor=1.0, heads=("box",), quantity="weights", iterations=(10, 20, 30)):
    """The positives grow with the number of images, the negatives with its square root."""
    record = empty_record(quantity, heads, FREQUENCY)
    share = np.ones((len(heads), 1)) / len(heads)
    for iteration in iterations:
        positive, negative = iteration * COUNTS * factor, iteration * 10 * np.sqrt(COUNTS + 1)
        record = record.with_note(iteration, share * positive, share * negative)
    return record


EXPECTED = COUNTS / (10 * np.sqrt(COUNTS + 1))


def test_the_ratio_takes_all_classifiers_together():
    record = make_record(heads=("box.0", "box.1"))
    np.testing.assert_allclose(record.ratio(), EXPECTED, rtol=1e-6)
    frequent = [1, 5]
    expected = COUNTS[frequent].sum() / (10 * np.sqrt(COUNTS[frequent] + 1)).sum()
    ratios = record.group_ratio_over_training()
    assert set(ratios) == set("rcf")
    np.testing.assert_allclose(ratios["f"], [expected] * 3, rtol=1e-5)
    np.testing.assert_array_equal(gradient_ratio([0, 1, 0], [1, 0, 0]), [0, np.inf, np.nan])


SUMS = arrays(np.float32, (2, 2, 8), elements=st.floats(0, 1e6, width=32))


@given(SUMS, SUMS)
def test_a_record_survives_the_disk(tmp_path_factory, positive, negative):
    folder = tmp_path_factory.mktemp("record")
    record = empty_record("logits", ("box.0", "box.1"), FREQUENCY)
    for iteration, sums in enumerate(zip(positive, negative, strict=True), start=1):
        record = record.with_note(iteration, *sums)
    record.save(folder / "gradient_record.npz")
    loaded = load_gradient_record(folder)
    assert loaded.matches(record)
    np.testing.assert_array_equal(loaded.positive, positive)
    np.testing.assert_array_equal(loaded.negative, negative)
    assert loaded.until(1).iterations.tolist() == [1]
    assert loaded.class_frequency.class_names == FREQUENCY.class_names
    np.testing.assert_array_equal(loaded.class_frequency.image_count, COUNTS)


def test_seeds_are_added_up():
    pooled = pool_records([make_record(1), make_record(3, iterations=(15, 20, 30))])
    assert pooled.iterations.tolist() == [20, 30]
    np.testing.assert_allclose(pooled.ratio(), 2 * EXPECTED, rtol=1e-6)
    with pytest.raises(UserError, match="end after 20 and 30 iterations"):
        pool_records([make_record(), make_record(iterations=(10, 20))])
    with pytest.raises(UserError, match="give them names of their own"):
        pool_records([make_record(), make_record(quantity="logits")])


def test_groups_have_their_medians():
    medians = group_medians(make_record().ratio(), FREQUENCY.group)
    assert medians["f"] == pytest.approx(np.median(EXPECTED[[1, 5]]), rel=1e-6)
    assert medians["c"] == pytest.approx(np.median(EXPECTED[[2, 4]]), rel=1e-6)
    assert medians["r"] == pytest.approx(np.median(EXPECTED[[0, 3, 6, 7]]), rel=1e-6)
    assert re.search(r"\| eql +\| +0.16 \|", format_ratios({"eql": make_record()}))


def test_the_picture_shows_every_run(tmp_path, call_tool):
    for name, factor in (("sigmoid_seed=0", 1), ("eql_seed=0", 4)):
        make_record(factor).save(tmp_path / name / "gradient_record.npz")
    result = call_tool(
        "analysis/plot_gradients.py",
        "sigmoid_seed=0",
        "EQL=eql_seed=0/gradient_record.npz",
        check=True,
    )
    assert re.search(r"\| sigmoid_seed=0 +\| +0.16 \|", result.stdout)
    assert re.search(r"\| EQL +\| +0.639 \|", result.stdout)
    picture = matplotlib.image.imread(tmp_path / "gradients.png")
    for colour in ("0072B2", "D55E00"):
        rgb = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        assert (np.abs(picture[..., :3] - rgb) < 0.01).all(axis=2).sum() > 500


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    path = tmp_path / "a.png"
    record = make_record()
    with pytest.raises(UserError, match="give between 1 and 6"):
        plot_gradients({}, path)
    with pytest.raises(UserError, match="gradients on logits, another run on weights"):
        plot_gradients({"a": record, "b": make_record(quantity="logits")}, path)
    other = ClassFrequency(COUNTS[::-1], COUNTS[::-1], 1000, tuple("abcdefgh"))
    with pytest.raises(UserError, match="'b' was trained on other categories"):
        plot_gradients({"a": record, "b": dataclasses.replace(record, class_frequency=other)}, path)
    assert not path.exists()


def test_what_is_no_record_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no such file; train with"):
        load_gradient_record(tmp_path)
    path = tmp_path / "gradient_record.npz"
    for content in (b"", b"no zip", b"PK\x03\x04 cut off"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is no record of gradients"):
            load_gradient_record(path)
    np.savez(path, quantity=np.array("weights"))
    with pytest.raises(UserError, match=r"is no record of gradients.*heads"):
        load_gradient_record(path)
    record = make_record()
    dataclasses.replace(record, positive=record.positive[:1]).save(path)
    with pytest.raises(UserError, match="not of the shape"):
        load_gradient_record(path)
