import numpy as np
import pycocotools.mask as mask_utils
import pytest

from mmdet_eql.utils.rle import count_pixels, to_bitmaps


def encode(bitmap):
    return mask_utils.encode(np.asfortranarray(bitmap.astype(np.uint8)))["counts"]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_pixels_of_random_masks(share):
    rng = np.random.default_rng(0)
    # More masks than are counted at once, of sizes from one character per number to four.
    bitmaps = [rng.random(rng.integers(1, 60, 2)) < share for _ in range(600)]
    bitmaps += [np.zeros((900, 700), bool), np.ones((900, 700), bool)]
    inside, total = count_pixels([encode(bitmap) for bitmap in bitmaps])
    assert inside.tolist() == [bitmap.sum() for bitmap in bitmaps]
    assert total.tolist() == [bitmap.size for bitmap in bitmaps]


def test_long_runs_and_negative_differences():
    bitmap = np.zeros((1000, 1000))
    bitmap[:, 300:301] = 1
    bitmap[400:410, 500] = 1
    bitmap[5, 900:] = 1
    inside, total = count_pixels([encode(bitmap)])
    assert (inside[0], total[0]) == (bitmap.sum(), bitmap.size)


def test_broken_texts_are_found_among_sound_ones():
    sound = encode(np.eye(30))
    cut_off = encode(np.zeros((500, 500)))[:-1]
    inside, total = count_pixels([sound, b"", b"{", sound, b" ", cut_off, sound + b"5", sound])
    assert total.tolist() == [900, -1, -1, 900, -1, -1, total[6], 900]
    assert total[6] != 900
    assert inside.tolist() == [30, -1, -1, 30, -1, -1, inside[6], 30]


@pytest.mark.parametrize("counts", [[], [b""], [b"", b"?!"]])
def test_nothing_to_count(counts):
    inside, total = count_pixels(counts)
    assert inside.tolist() == total.tolist() == [-1] * len(counts)


def test_decoded_masks():
    bitmaps = np.random.default_rng(0).random((4, 7, 9)) < 0.5
    rles = [{"size": [7, 9], "counts": encode(bitmap)} for bitmap in bitmaps]
    decoded = to_bitmaps(rles, (7, 9))
    assert decoded.dtype == bool
    assert np.array_equal(decoded, bitmaps)
    assert to_bitmaps([], (7, 9)).shape == (0, 7, 9)
