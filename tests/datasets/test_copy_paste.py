"""Copy-paste: which images are pasted from, and what is known of the mixture."""

import numpy as np
import pytest
from mmdet.registry import DATASETS, TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import init_default_scope

from mmdet_eql.datasets.samplers import RepeatFactorSampler
from mmdet_eql.utils.errors import UserError


@pytest.fixture(autouse=True)
def scope():
    init_default_scope("mmdet")


def step(**options):
    return TRANSFORMS.build(dict(type="RepeatFactorCopyPaste", **options))


def image(value: int, objects: dict[int, slice], positive=(), negative=()) -> dict:
    """A grey image of 40 x 40 pixels with an object of each label over some columns."""
    masks = np.zeros((len(objects), 40, 40), np.uint8)
    for mask, columns in zip(masks, objects.values(), strict=True):
        mask[:, columns] = 1
    bitmaps = BitmapMasks(masks, 40, 40)
    return dict(
        img=np.full((40, 40, 3), value, np.uint8),
        gt_seg_map=np.full((40, 40), value, np.uint8),
        gt_bboxes=bitmaps.get_bboxes(HorizontalBoxes),
        gt_bboxes_labels=np.array([*objects], np.int64),
        gt_ignore_flags=np.zeros(len(objects), bool),
        gt_masks=bitmaps,
        positive_labels=sorted({*objects, *positive}),
        negative_labels=sorted(negative),
    )


def pasted(selected: list[int], monkeypatch) -> dict:
    """A destination with the objects 0, 1 and the tiny 2, and a source with 4 and 5, of which the
    ones at these places are pasted."""
    transform = step()
    monkeypatch.setattr(transform, "_get_selected_inds", lambda _: np.array(selected, int))
    results = image(1, {0: slice(0, 10), 1: slice(20, 40)}, positive=[2], negative=[4, 6, 7])
    source = image(9, {4: slice(10, 15), 5: slice(15, 40)}, negative=[0, 6])
    return transform(dict(results, mix_results=[source]))


def test_a_pasted_category_is_present_and_no_longer_verified_absent(monkeypatch):
    results = pasted([0], monkeypatch)
    assert results["positive_labels"] == [0, 1, 2, 4]  # 5 stayed in the source
    # What lies within a pasted object is known for the source's verified categories alone.
    assert results["negative_labels"] == [6]
    assert sorted(results["gt_bboxes_labels"]) == [0, 1, 4]
    assert results["img"].dtype == np.uint8
    expected = np.ones(40)
    expected[10:15] = 9
    for key in ("img", "gt_seg_map"):
        row = results[key][0].reshape(40, -1)[:, 0]
        np.testing.assert_array_equal(row, expected)


def test_a_covered_category_is_no_longer_known_to_be_present(monkeypatch):
    results = pasted([1], monkeypatch)
    assert sorted(results["gt_bboxes_labels"]) == [0, 5]
    assert results["positive_labels"] == [0, 2, 5]


def test_without_a_pasted_object_nothing_changes(monkeypatch):
    results = pasted([], monkeypatch)
    assert results["positive_labels"] == [0, 1, 2]
    assert results["negative_labels"] == [4, 6, 7]
    assert (results["img"] == 1).all()


def test_sources_are_drawn_by_repeat_factors(minilvis):
    dataset = DATASETS.build(
        dict(
            type="LVISFormatDataset",
            ann_file="annotations/minilvis_train.json",
            data_root=str(minilvis),
            data_prefix=dict(img=""),
            filter_cfg=dict(filter_empty_gt=True),
        )
    )
    np.random.seed(0)
    factors = RepeatFactorSampler(dataset, repeat_threshold=0.5, seed=0).repeat_factors
    assert factors.max() > 1.5 * factors.min()
    for threshold, expected in ((0.5, factors), (0.0, np.ones(len(dataset)))):
        transform, draws = step(repeat_threshold=threshold), 20_000
        chosen = [transform.get_indexes(dataset) for _ in range(draws)]
        share = np.bincount(chosen, minlength=len(dataset)) / draws
        # Four standard deviations.
        np.testing.assert_allclose(share, expected / expected.sum(), atol=4 * 0.2 / draws**0.5)


def test_mixing_without_image_level_labels_is_one_sentence():
    """As mmdet's steps leave a mixture: with the objects of both images and the labels of one."""
    results = image(1, {0: slice(0, 10), 4: slice(20, 40)})
    results["positive_labels"] = [0]
    with pytest.raises(UserError, match=r"'RepeatFactorCopyPaste'.*'MixImageLevelLabels'"):
        TRANSFORMS.build(dict(type="PackLVISInputs"))(results)


def test_copy_paste_as_a_mixture_of_images_is_one_sentence():
    with pytest.raises(UserError, match=r"'RepeatFactorCopyPaste'"):
        TRANSFORMS.build(dict(type="MixImageLevelLabels", transform=dict(type="CopyPaste")))
