"""Files in the layout of the official CIFAR archives, as Python 2 pickled them."""

import struct
from pathlib import Path

import numpy as np


def python2_pickle(content: dict) -> bytes:
    """A pickle of protocol 2 with Python 2's byte strings, for a dict of strings to strings, lists
    of whole numbers or strings, and arrays of bytes."""
    return b"\x80\x02" + _encode(content) + b"."


def _encode(value) -> bytes:
    if isinstance(value, dict):
        items = b"".join(_encode(key) + _encode(item) for key, item in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_encode, value)) + b"e"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, str):
        value = value.encode("latin1")
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    # What NumPy 1 wrote for an array: its type, its shape, its bytes.
    begin = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    unknown = b"J\xff\xff\xff\xff" * 2
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNN" + unknown + b"K\x00tb"
    rows, columns = value.shape
    shape = _encode(rows) + _encode(columns) + b"\x86"
    return begin + b"(K\x01" + shape + dtype + b"\x89" + _encode(value.tobytes()) + b"tb"


def numbered_images(count: int) -> np.ndarray:
    """Images that can be told apart: the number of each is in its first three bytes."""
    data = np.zeros((count, 3072), dtype=np.uint8)
    data[:, :3] = np.arange(count, dtype="<u4").view(np.uint8).reshape(count, 4)[:, :3]
    return data


def write_cifar10(root: Path, per_class: int, seed: int = 0) -> np.ndarray:
    """Write CIFAR-10's archive as it is unpacked, with as many training images of each class;
    returns the training labels in the order of the files."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(10), per_class))
    images = numbered_images(len(labels))
    parts = zip(np.array_split(labels, 5), np.array_split(images, 5), strict=True)
    for number, (of_batch, data) in enumerate(parts, start=1):
        content = {
            "batch_label": f"training batch {number} of 5",
            "labels": of_batch.tolist(),
            "data": data,
            "filenames": ["x.png"] * 2,
        }
        (folder / f"data_batch_{number}").write_bytes(python2_pickle(content))
    test = {"labels": list(range(10)), "data": numbered_images(10)}
    (folder / "test_batch").write_bytes(python2_pickle(test))
    names = [f"class {label}" for label in range(10)]
    meta = {"num_cases_per_batch": 10000, "label_names": names, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(python2_pickle(meta))
    return labels


def write_cifar100(root: Path, per_class: int) -> np.ndarray:
    """As :func:`write_cifar10`, for CIFAR-100."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(100), per_class))
    for name, of_split in (("train", labels), ("test", np.arange(100))):
        content = {
            "fine_labels": of_split.tolist(),
            "coarse_labels": (of_split // 5).tolist(),
            "data": numbered_images(len(of_split)),
        }
        (folder / name).write_bytes(python2_pickle(content))
    names = [f"class {label}" for label in range(100)]
    (folder / "meta").write_bytes(python2_pickle({"fine_label_names": names}))
    return labels
