"""What the frequency-aware samplers draw: by the rules, on every rank, from any position."""

import math
from itertools import islice
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATA_SAMPLERS

from mmdet_eql.datasets.samplers import CategoryAwareSampler, MixedSampler, RepeatFactorSampler
from mmdet_eql.frequency import ClassFrequency
from mmdet_eql.utils.errors import UserError
from tests.conftest import log_of


class Labelled:
    """A dataset with labels and nothing else."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def get_cat_ids(self, index):
        return self.labels[index]


def long_tailed(num_images=300, num_categories=20, seed=0):
    rng = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, num_categories + 1) ** 1.5
    popularity /= popularity.sum()
    counts = rng.integers(0, 5, num_images)
    return Labelled([rng.choice(num_categories, n, p=popularity).tolist() for n in counts])


def on_ranks(world_size, make):
    """The sampler of each rank."""
    samplers = []
    for rank in range(world_size):
        with mock.patch(
            "mmdet_eql.datasets.samplers.stream.get_dist_info", return_value=(rank, world_size)
        ):
            samplers.append(make())
    return samplers


SAMPLERS = {
    "repeat factor": dict(type="RepeatFactorSampler", repeat_threshold=0.1),
    "category": dict(type="CategoryAwareSampler"),
    "category, few": dict(type="CategoryAwareSampler", num_samples=7),
    "mixed": dict(
        type="MixedSampler",
        samplers=[
            dict(type="RepeatFactorSampler", repeat_threshold=0.1),
            dict(type="CategoryAwareSampler"),
        ],
        weights=(3, 1),
        final_weights=(0, 1),
        num_epochs=4,
    ),
}
any_sampler = pytest.mark.parametrize("config", SAMPLERS.values(), ids=SAMPLERS)


def build(config, dataset, **kwargs):
    return DATA_SAMPLERS.build({**config, **kwargs}, default_args=dict(dataset=dataset))


# --- repeat factors -------------------------------------------------------------------------------


def naive_repeat_factors(labels, threshold):
    """The three steps of the LVIS paper, appendix B."""
    images = len(labels)
    f = {}
    for row in labels:
        for c in set(row):
            f[c] = f.get(c, 0) + 1 / images
    r = {c: max(1.0, math.sqrt(threshold / f[c])) for c in f}
    return [max((r[c] for c in row), default=1.0) for row in labels]


@given(
    st.lists(st.lists(st.integers(0, 6), max_size=4), min_size=1, max_size=30),
    st.floats(0, 3),
)
def test_repeat_factors_are_the_formula(labels, threshold):
    sampler = RepeatFactorSampler(Labelled(labels), threshold, seed=0)
    np.testing.assert_allclose(
        sampler.repeat_factors, naive_repeat_factors(labels, threshold), rtol=1e-12
    )


def test_the_options_of_repeat_factors():
    # Category 0 in 4 of 8 images with 4 of 16 instances, category 1 in 1 with 12.
    labels = [[0], [0], [0], [0], [1] * 12, [], [], []]

    def factors(**options):
        return RepeatFactorSampler(Labelled(labels), 2.0, seed=0, **options).repeat_factors[[0, 4]]

    np.testing.assert_allclose(factors(), [2, 4])
    np.testing.assert_allclose(factors(sqrt=False), [4, 16])
    np.testing.assert_allclose(factors(max_repeat=3), [2, 3])
    np.testing.assert_allclose(factors(frequency="instance"), [8**0.5, (8 / 3) ** 0.5])
    np.testing.assert_allclose(
        factors(frequency="image-instance"),
        [(2 / (1 / 8) ** 0.5) ** 0.5, (2 / (3 / 32) ** 0.5) ** 0.5],
    )


def test_frequencies_are_the_datasets_own():
    dataset = Labelled([[0], [1]])
    dataset.class_frequency = ClassFrequency(
        np.array([1, 100]), np.array([1, 100]), 10_000, ("rare", "common")
    )
    factors = RepeatFactorSampler(dataset, 0.01, seed=0).repeat_factors
    np.testing.assert_allclose(factors, [10, 1])


def test_concatenated_sets_with_different_categories_are_refused():
    parts = [long_tailed(), long_tailed()]
    whole = Labelled([*parts[0].labels, *parts[1].labels])
    whole.datasets = parts
    # What nobody has counted is counted here.
    assert len(RepeatFactorSampler(whole, 0.1).repeat_factors) == 600
    for part, name in zip(parts, "ab", strict=True):
        count = np.arange(20)
        part.class_frequency = ClassFrequency(count, count, 300, tuple(f"{name}{i}" for i in count))
    with pytest.raises(UserError, match="name different categories"):
        RepeatFactorSampler(whole, 0.1)


def test_mean_repeats_over_200_epochs():
    # A repeat is a coin of probability p = frac(r); its mean over 200 epochs has the standard
    # deviation sqrt(p (1 - p) / 200). Six of these hold for all 300 images but one time in
    # some 2 million (300 * 2e-9), for a normal distribution; the seed is fixed besides.
    sampler = RepeatFactorSampler(long_tailed(), 0.1, seed=0)
    epochs = 200
    repeats = np.zeros(len(sampler.repeat_factors))
    for epoch in range(epochs):
        indices = sampler.epoch_indices(epoch)
        assert len(indices) == sampler.epoch_length(epoch)
        drawn = np.bincount(indices, minlength=len(repeats))
        assert np.all(np.abs(drawn - sampler.repeat_factors) < 1)
        repeats += drawn / epochs
    chance = sampler.repeat_factors % 1
    error = np.sqrt(chance * (1 - chance) / epochs)
    assert (error > 0).sum() > 50
    assert np.all(np.abs(repeats - sampler.repeat_factors) <= 6 * error + 1e-12)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_threshold_of_zero_is_the_default_sampler(world_size):
    dataset = long_tailed(num_images=31)
    ours = on_ranks(world_size, lambda: RepeatFactorSampler(dataset, 0, seed=5))
    for rank, sampler in enumerate(ours):
        with mock.patch("mmengine.dataset.sampler.get_dist_info", return_value=(rank, world_size)):
            default = DefaultSampler(dataset, seed=5)
        for epoch in (0, 3):
            sampler.set_epoch(epoch)
            default.set_epoch(epoch)
            assert list(sampler) == list(default)
            assert len(sampler) == len(default)


class Repeated:
    """As mmengine's ClassBalancedDataset."""

    def __init__(self, dataset, repeat_indices):
        self.dataset, self.repeat_indices = dataset, repeat_indices

    def __len__(self):
        return len(self.repeat_indices)


def test_images_that_a_wrapper_repeats_already_are_named():
    dataset = Labelled([[0]] * 9 + [[0, 1]])
    repeated = Repeated(dataset, [*range(9), 9, 9])
    for part, threshold in ((repeated, 0.5), (repeated, 0), (dataset, 0.5)):
        said = log_of(lambda of=(part, threshold): RepeatFactorSampler(*of))
        named = "WARNING train_dataloader.dataset: ClassBalancedDataset repeats" in said
        assert named == (part is repeated and threshold > 0)


def test_order_without_shuffling():
    sampler = RepeatFactorSampler(Labelled([[0], [1], [1], [1]]), 1.0, shuffle=False, seed=0)
    assert list(sampler) == sorted(sampler)
    assert list(sampler).count(0) == 2


# --- class-aware sampling -------------------------------------------------------------------------


def test_categories_are_visited_in_cycles_and_images_in_rounds():
    labels = [[0], [0], [0], [0, 0], [1], [1], [2], [], [0, 1, 2], [4]]  # no image of category 3
    sampler = CategoryAwareSampler(Labelled(labels), num_samples=42, seed=3)
    of_category = [[i for i, row in enumerate(labels) if c in row] for c in (0, 1, 2, 4)]
    cycles = []
    for epoch in range(4):
        categories = sampler._categories(epoch * 42, (epoch + 1) * 42)
        indices = sampler.epoch_indices(epoch)
        cycles.extend(categories.tolist())
        for c, images in enumerate(of_category):
            drawn = indices[categories == c].tolist()
            rounds = [drawn[i : i + len(images)] for i in range(0, len(drawn), len(images))]
            assert all(len(set(one)) == len(one) and set(one) <= set(images) for one in rounds)
            assert all(set(one) == set(images) for one in rounds[:-1])
    # The cycles go on across the epochs: 42 is no multiple of 4.
    cycles = np.array(cycles).reshape(-1, 4)
    assert (np.sort(cycles, axis=1) == np.arange(4)).all()
    assert len({tuple(cycle) for cycle in cycles.tolist()}) > 10


def test_orders_do_not_repeat():
    # Two categories of 6 images each: 720 orders a round, and none should come back soon.
    dataset = Labelled([[i % 2] for i in range(12)])
    sampler = CategoryAwareSampler(dataset, num_samples=240, seed=0)
    indices = np.concatenate([sampler.epoch_indices(epoch) for epoch in range(5)])
    rounds = [tuple(indices[indices % 2 == 0][i : i + 6]) for i in range(0, 600, 6)]
    assert len(set(rounds)) > 80  # 93 are expected of 100 drawn from 720


def test_fewer_samples_than_categories_still_visit_every_category():
    dataset = Labelled([[c] for c in range(20)])
    sampler = CategoryAwareSampler(dataset, num_samples=6, seed=1)
    seen = np.concatenate([sampler.epoch_indices(epoch) for epoch in range(10)])
    assert np.bincount(seen, minlength=20).tolist() == [3] * 20


# --- mixtures -------------------------------------------------------------------------------------


def test_shares_of_a_mixture():
    dataset = long_tailed(100)
    config = dict(
        samplers=[
            dict(type="RepeatFactorSampler", repeat_threshold=0),
            dict(type="CategoryAwareSampler"),
        ]
    )
    half = MixedSampler(dataset, **config, seed=0)
    assert half.num_drawn(0).tolist() == [50, 50]
    # Two epochs hold each image once from the first sampler, which goes on where it stopped.
    drawn = np.concatenate([half.epoch_indices(0), half.epoch_indices(1)])
    of_second = half.samplers[1].stream(0, 100)
    left = np.bincount(drawn, minlength=100) - np.bincount(of_second, minlength=100)
    assert left.tolist() == [1] * 100

    shifting = MixedSampler(
        dataset, **config, weights=(1, 0), final_weights=(0, 1), num_epochs=5, seed=0
    )
    shares = [shifting.num_drawn(epoch).tolist() for epoch in range(7)]
    assert shares == [[100, 0], [75, 25], [50, 50], [25, 75], [0, 100], [0, 100], [0, 100]]


def test_parts_of_a_mixture_draw_differently():
    part = dict(type="RepeatFactorSampler", repeat_threshold=0)
    mixture = MixedSampler(long_tailed(100), samplers=[part, part], seed=0)
    first, second = (sampler.stream(0, 50) for sampler in mixture.samplers)
    assert first.tolist() != second.tolist()


# --- ranks and positions --------------------------------------------------------------------------


@any_sampler
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_one_epoch(config, world_size):
    dataset = long_tailed(100)
    samplers = on_ranks(world_size, lambda: build(config, dataset, seed=4))
    for epoch in (0, 2):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        expected = samplers[0].epoch_indices(epoch).tolist()
        drawn = [list(sampler) for sampler in samplers]
        assert [len(indices) for indices in drawn] == [len(sampler) for sampler in samplers]
        together = [index for batch in zip(*drawn, strict=True) for index in batch]
        # All that the rules say, in their order, and less than one for each rank besides.
        assert together[: len(expected)] == expected
        padding = together[len(expected) :]
        assert len(padding) < world_size
        assert padding == expected[: len(padding)]


@any_sampler
@given(world_size=st.integers(1, 3), length=st.integers(1, 700))
@settings(max_examples=25, deadline=None)
def test_ranks_share_a_stream_without_end(config, world_size, length):
    dataset = long_tailed(40)
    stream = build(config, dataset, seed=9, infinite=True).stream(0, length * world_size).tolist()
    for rank, sampler in enumerate(
        on_ranks(world_size, lambda: build(config, dataset, seed=9, infinite=True))
    ):
        assert list(islice(iter(sampler), length)) == stream[rank::world_size]


@any_sampler
def test_the_stream_is_its_epochs(config):
    sampler = build(config, long_tailed(50), seed=2)
    epochs = np.concatenate([sampler.epoch_indices(epoch) for epoch in range(15)])
    assert sampler.stream(0, len(epochs)).tolist() == epochs.tolist()
    assert sampler.stream(33, 77).tolist() == epochs[33:77].tolist()
    assert len(sampler.stream(5, 5)) == 0


@any_sampler
def test_order_depends_on_seed_and_epoch(config):
    dataset = long_tailed(50)
    first, same, other = (build(config, dataset, seed=seed) for seed in (1, 1, 2))
    assert list(first) == list(same)
    assert list(first) != list(other)
    before = list(first)
    first.set_epoch(1)
    assert list(first) != before
    first.set_epoch(0)
    assert list(first) == before


# --- the edges ------------------------------------------------------------------------------------


@any_sampler
def test_fewer_images_than_ranks(config):
    samplers = on_ranks(3, lambda: build(config, Labelled([[0], [1]]), seed=0))
    lengths = {len(list(sampler)) for sampler in samplers}
    assert lengths == {len(samplers[0])}
    assert {index for sampler in samplers for index in sampler} == {0, 1}


@any_sampler
def test_no_images(config):
    with pytest.raises(UserError, match="has no images; check its 'filter_cfg'"):
        build(config, Labelled([]), seed=0)


def test_no_annotations():
    empty = Labelled([[], [], []])
    assert sorted(RepeatFactorSampler(empty, 0.5, seed=0)) == [0, 1, 2]
    with pytest.raises(UserError, match="no image of the training dataset is annotated"):
        CategoryAwareSampler(empty, seed=0)


@pytest.mark.parametrize(
    ("sampler", "options", "sentence"),
    [
        ("RepeatFactorSampler", dict(repeat_threshold=-1), "'repeat_threshold' is -1"),
        ("RepeatFactorSampler", dict(repeat_threshold=math.nan), "'repeat_threshold' is nan"),
        ("RepeatFactorSampler", dict(max_repeat=0.5), "'max_repeat' is 0.5"),
        ("RepeatFactorSampler", dict(frequency="box"), "'frequency' is 'box'; give one of"),
        ("CategoryAwareSampler", dict(num_samples=0), "'num_samples' is 0"),
        ("MixedSampler", dict(samplers=[]), "'weights' has 0 numbers for 0 'samplers'"),
        (
            "MixedSampler",
            dict(samplers=[dict(type="CategoryAwareSampler")], weights=(1, 2)),
            "'weights' has 2 numbers for 1 'samplers'",
        ),
        (
            "MixedSampler",
            dict(samplers=[dict(type="CategoryAwareSampler")], weights=(-1,)),
            "give numbers of at least 0",
        ),
        (
            "MixedSampler",
            dict(samplers=[dict(type="CategoryAwareSampler")], final_weights=(1,)),
            "'final_weights' and 'num_epochs' belong together",
        ),
        (
            "MixedSampler",
            dict(samplers=[dict(type="CategoryAwareSampler")], final_weights=(1,), num_epochs=1),
            "'num_epochs' is 1",
        ),
        ("MixedSampler", dict(samplers=[dict(type="DefaultSampler")]), "cannot be mixed"),
        (
            "MixedSampler",
            dict(samplers=[dict(type="CategoryAwareSampler")], num_samples=-2),
            "'num_samples' is -2",
        ),
    ],
)
def test_options_without_meaning(sampler, options, sentence):
    with pytest.raises(UserError, match=sentence):
        DATA_SAMPLERS.build(
            dict(type=sampler, **options), default_args=dict(dataset=long_tailed(20), seed=0)
        )
