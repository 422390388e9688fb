"""Run-length encoded masks, in the compressed form of pycocotools."""

from collections.abc import Sequence

import numpy as np
import pycocotools.mask as mask_utils

# So many that their numbers stay in the processor's cache.
_MASKS_AT_ONCE = 512


def count_pixels(counts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Number of pixels of each mask, and of its image.

    The latter is height times width for a valid mask. pycocotools does not check: its IoU of masks
    whose runs differ in total never returns.

    A character, less 48, holds five bits of a number from the lowest on, and a sixth that says
    whether more follow; the last one's fifth bit is the sign. The numbers are the lengths of runs,
    outside and inside in turn, from the fourth on as the difference to the length two runs before.

    Args:
        counts (Sequence[bytes]): Compressed RLE ``counts`` of N masks.

    Returns:
        tuple: Pixels of the mask and pixels in all, int64 of shape (N,); both -1 for what is no
        compressed RLE.

    Example:
        >>> import pycocotools.mask as mask_utils
        >>> mask = np.asfortranarray(np.eye(4, 6, dtype=np.uint8))
        >>> count_pixels([mask_utils.encode(mask)["counts"], b"?!"])
        (array([ 4, -1]), array([24, -1]))
    """
    blocks = [
        _count_block(counts[start : start + _MASKS_AT_ONCE])
        for start in range(0, max(len(counts), 1), _MASKS_AT_ONCE)
    ]
    inside, total = zip(*blocks, strict=True)
    return np.concatenate(inside), np.concatenate(total)


def to_bitmaps(rles: Sequence[dict], size: tuple[int, int]) -> np.ndarray:
    """Decode N compressed RLEs of one image of size (H, W) to bool of shape (N, H, W)."""
    if not rles:
        return np.zeros((0, *size), dtype=bool)
    return mask_utils.decode(list(rles)).transpose(2, 0, 1).astype(bool)


def _count_block(counts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    length = np.array([len(text) for text in counts], dtype=np.int64)
    code = np.frombuffer(b"".join(counts), dtype=np.uint8).astype(np.int64) - 48
    is_last = (code & 32) == 0

    valid = length > 0
    valid[valid] = is_last[np.cumsum(length)[valid] - 1]
    if code.size and (code.min() < 0 or code.max() > 63):
        valid[np.repeat(np.arange(len(counts)), length)[(code < 0) | (code > 63)]] = False
    if not valid.all():
        kept = np.repeat(valid, length)
        code, is_last, length = code[kept], is_last[kept], length[valid]

    # Characters to numbers.
    ends = np.flatnonzero(is_last)
    starts = np.append(0, ends + 1)[:-1]
    place = np.arange(len(code)) - np.repeat(starts, ends - starts + 1)
    number = _sums(code % 32 << 5 * place, ends + 1)
    number -= np.where(code[ends] & 16, 32 << 5 * place[ends], 0)

    # Numbers to pixels: a difference counts for its own run and for every second one after it.
    ends_of_mask = np.cumsum(is_last)[np.cumsum(length) - 1]
    num_runs = np.diff(ends_of_mask, prepend=0)
    run = np.arange(len(number)) - np.repeat(ends_of_mask - num_runs, num_runs)
    covered = number * np.where(run == 0, 1, (np.repeat(num_runs, num_runs) - run + 1) // 2)
    inside, total = (np.full(len(counts), -1, dtype=np.int64) for _ in range(2))
    total[valid] = _sums(covered, ends_of_mask)
    inside[valid] = _sums(covered * (run % 2), ends_of_mask)
    return inside, total


def _sums(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Sums of consecutive stretches of ``values`` that end before ``ends``."""
    return np.diff(np.append(0, np.cumsum(values))[ends], prepend=0)
