"""Counting categories, and finding the dataset that counted them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdet_eql.frequency import ClassFrequency, class_frequency_of, frequency_group
from mmdet_eql.utils.errors import UserError


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=60))
def test_counts_equal_a_naive_count(pairs):
    freq = ClassFrequency.from_labels([i for i, _ in pairs], [j for _, j in pairs], 10, "abcde")
    for j in range(5):
        assert freq.instance_count[j] == sum(label == j for _, label in pairs)
        assert freq.image_count[j] == len({i for i, label in pairs if label == j})
    assert len(freq) == 5
    np.testing.assert_array_equal(freq.frequency, freq.image_count / 10)


def test_groups_have_the_cuts_of_lvis():
    assert "".join(frequency_group(np.array([0, 1, 10, 11, 100, 101]))) == "rrrccf"


def test_tail_ratio_is_a_share_of_image_counts():
    freq = ClassFrequency(np.array([1, 4, 15]), np.array([1, 9, 90]), 20, ("a", "b", "c"))
    assert freq.tail_ratio(0) == 0
    assert freq.tail_ratio(0.05) == 0  # f = 0.05 does not lie below
    assert freq.tail_ratio(0.2) == 1 / 20
    assert freq.tail_ratio(0.3) == 5 / 20
    assert freq.tail_ratio(1) == 1


class Counted:
    def __init__(self, image_count, names=("a", "b")):
        count = np.array(image_count)
        self.class_frequency = ClassFrequency(count, count, 10, names)


class Wrapper:
    def __init__(self, dataset):
        self.dataset = dataset


class Concat:
    def __init__(self, *datasets):
        self.datasets = datasets


def test_frequency_is_found_through_wrappers():
    first, second = Counted([1, 2]), Counted([3, 4])
    assert class_frequency_of(Wrapper(Wrapper(first))) is first.class_frequency
    merged = class_frequency_of(Wrapper(Concat(first, Wrapper(second))))
    assert merged.image_count.tolist() == [4, 6]
    assert merged.num_images == 20


def test_wrong_use_is_one_sentence():
    with pytest.raises(UserError, match="does not count its categories"):
        class_frequency_of(object())
    with pytest.raises(UserError, match="different categories"):
        class_frequency_of(Concat(Counted([1, 2]), Counted([1, 2], names=("a", "c"))))
    with pytest.raises(UserError, match="at most 10 images"):
        Counted([1, 11])
    with pytest.raises(UserError, match="3 image counts"):
        Counted([1, 2, 3])
