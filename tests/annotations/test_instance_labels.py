"""The labels of each image, through the wrappers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdet.datasets import MultiImageMixDataset
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from torch.utils.data import Subset

from mmdet_eql.annotations.instance_labels import InstanceLabels
from mmdet_eql.datasets import instance_labels_of
from mmdet_eql.utils.errors import UserError
from tests.conftest import build_dataset

lists = st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=8)


@given(lists)
def test_rows_and_pairs(labels):
    packed = InstanceLabels.from_lists(labels)
    assert [packed[i].tolist() for i in range(len(packed))] == labels
    pairs = sorted({(image, label) for image, row in enumerate(labels) for label in row})
    assert list(zip(*(part.tolist() for part in packed.pairs()), strict=True)) == pairs


@given(lists, st.data())
def test_taking_and_concatenating(labels, data):
    packed = InstanceLabels.from_lists(labels)
    indices = data.draw(st.lists(st.integers(0, len(labels) - 1))) if labels else []
    taken = packed.take(indices)
    assert [taken[i].tolist() for i in range(len(taken))] == [labels[i] for i in indices]
    both = InstanceLabels.concatenate([packed, taken])
    assert [both[i].tolist() for i in range(len(both))] == labels + [labels[i] for i in indices]


@pytest.fixture
def dataset(minilvis):
    return build_dataset(minilvis, filter_cfg=dict(filter_empty_gt=True))


def test_wrappers(dataset):
    wrapped = [
        dataset,
        ConcatDataset([dataset, dataset]),
        RepeatDataset(dataset, times=3),
        ClassBalancedDataset(dataset, oversample_thr=0.5),
        MultiImageMixDataset(dataset, pipeline=[]),
        Subset(dataset, [5, 2, 2]),
        dataset.get_subset([4, 1]),
    ]
    for wrapper in wrapped:
        labels = instance_labels_of(wrapper)
        assert len(labels) == len(wrapper)
        indices = range(len(wrapper))
        if isinstance(wrapper, Subset):
            expected = [dataset.get_cat_ids(i) for i in wrapper.indices]
        elif hasattr(wrapper, "get_cat_ids"):
            expected = [wrapper.get_cat_ids(i) for i in indices]
        else:
            parts = getattr(wrapper, "datasets", [dataset] * getattr(wrapper, "times", 1))
            expected = [part.get_cat_ids(i) for part in parts for i in range(len(part))]
        assert [labels[i].tolist() for i in indices] == expected


def test_a_dataset_without_labels_is_refused():
    with pytest.raises(UserError, match="list has no labels of its images"):
        instance_labels_of([1, 2])
