"""Mistakes that evaluators pass over in silence: each is one sentence here, before matching."""

import re

import pytest

from mmdet_eql.evaluation import compare_files
from mmdet_eql.utils.errors import UserError
from tests.evaluation.federated_sets import make_federated_set, save


def mask_of_another_size(data, results):
    results[0]["segmentation"] = {"size": [7, 9], "counts": "o1"}


def mask_whose_runs_do_not_fill_its_image(data, results):
    results[0]["segmentation"]["counts"] = "5"


def record_without_a_score(data, results):
    del results[2]["score"]


def record_of_an_unknown_image(data, results):
    results[1]["image_id"] = 10**6


def record_of_an_unknown_category(data, results):
    results[1]["category_id"] = 10**6


def two_images_with_one_id(data, results):
    data["images"][1]["id"] = data["images"][0]["id"]


def two_categories_with_one_id(data, results):
    data["categories"][1]["id"] = data["categories"][0]["id"]


def unknown_frequency(data, results):
    data["categories"][0]["frequency"] = "rare"


def frequency_missing_for_one(data, results):
    del data["categories"][0]["frequency"]


def negatives_missing_in_one_image(data, results):
    del data["images"][2]["neg_category_ids"]


def unknown_negative(data, results):
    data["images"][2]["neg_category_ids"] = [10**6]


def annotation_of_no_image(data, results):
    data["annotations"][0]["image_id"] = 10**6


def annotation_of_no_category(data, results):
    data["annotations"][0]["category_id"] = 10**6


def annotated_mask_of_another_size(data, results):
    data["annotations"][0].update(area=5, segmentation={"size": [7, 9], "counts": [63]})


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (mask_of_another_size, "{results}: record 0 has a 'segmentation' that is not compressed"),
        (mask_whose_runs_do_not_fill_its_image, "{results}: image .*: a detected mask of category"),
        (record_without_a_score, "{results}: record 2 is not an object with a field 'score'"),
        (record_of_an_unknown_image, "{results}: record 1 has a 'image_id' that is not in {truth}"),
        (record_of_an_unknown_category, "{results}: record 1 has a 'category_id' that is not in"),
        (two_images_with_one_id, "{truth}: images holds the id .* twice"),
        (two_categories_with_one_id, "{truth}: categories holds the id .* twice"),
        (unknown_frequency, "{truth}: category .* has frequency 'rare'; it must be 'r', 'c' or"),
        (frequency_missing_for_one, "{truth}: category .* has frequency None; it must be"),
        (negatives_missing_in_one_image, "{truth}: image .* has no field 'neg_category_ids'"),
        (unknown_negative, "{truth}: image .*: 'neg_category_ids' names the category 1000000"),
        (annotation_of_no_image, "{truth}: annotation .* belongs to image 1000000"),
        (annotation_of_no_category, "{truth}: annotation .* has category 1000000"),
        (annotated_mask_of_another_size, "{truth}: annotation .* has no usable 'segmentation'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_mistake_is_one_sentence(spoil, sentence, tmp_path):
    data, results = make_federated_set(0, masks=True)
    spoil(data, results)
    truth, found = save(tmp_path, data, results)
    with pytest.raises(UserError) as error:
        compare_files(truth, [found], "segm")
    pattern = sentence.format(truth=re.escape(truth), results=re.escape(found))
    assert re.match(pattern, str(error.value))
    assert "\n" not in str(error.value)
