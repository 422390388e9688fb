"""Image files: whether they are whole, their depth, and how their EXIF data turn them."""

import io
import logging
from collections.abc import Callable

import cv2
import numpy as np
from mmengine.logging import print_log
from PIL import Image

_JPEG, _END_OF_JPEG = b"\xff\xd8", b"\xff\xd9"
#: Compressed data that is all ones, where a decoder at the end of its data assumes zeros.
_OTHER_DATA = b"\xff\0" * 1024
_ORIENTATION = 0x0112


def decode_whole(content: bytes, decode: Callable[[bytes], np.ndarray | None]) -> np.ndarray | None:
    """Decode an image file; None if it cannot be decoded whole.

    A JPEG may lack its end marker, or have something behind it. Nothing of the image is missing if
    it makes no difference to the decoder how its data go on.

    Args:
        content (bytes): The file.
        decode (Callable): Decodes the content of a file; returns None or raises if it cannot.
    """

    def try_to_decode(content: bytes) -> np.ndarray | None:
        try:
            return decode(content)
        except Exception:  # each decoder has its own errors; all mean the same here
            return None

    if not content.startswith(_JPEG) or is_ended_jpeg(content):
        return try_to_decode(content)
    image = try_to_decode(content + _END_OF_JPEG)
    other = try_to_decode(content + _OTHER_DATA + _END_OF_JPEG)
    return image if image is not None and np.array_equal(image, other) else None


def is_ended_jpeg(content: bytes) -> bool:
    """Return whether an image file is a JPEG with its end marker."""
    return content.startswith(_JPEG) and content.rstrip(b"\0").endswith(_END_OF_JPEG)


def exif_orientation(content: bytes) -> int:
    """Return how EXIF data turn an image file: from 5 on, width and height change places.

    1 is for an image that is shown as it is stored, or whose EXIF data cannot be read.
    """
    if content.startswith(_JPEG) and b"Exif" not in content[: 1 << 16]:
        return 1
    try:
        with Image.open(io.BytesIO(content)) as image:
            orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises whatever the parser of a format comes upon
        return 1
    return orientation if orientation in range(1, 9) else 1


def size_hint(content: bytes, size: tuple[int, int], annotated: tuple[int, int]) -> str:
    """Return what to do about an image of another size than annotated, both height and width."""
    if size == annotated[::-1] and exif_orientation(content) >= 5:
        return (
            "its EXIF data turn it by 90 degrees, and it was annotated the other way: in the step "
            "that loads images, write color_type='color_ignore_orientation' to take images as they "
            "are stored, or remove it to turn them"
        )
    return "replace the image or correct the annotation"


def warn_of_depth(path: str) -> None:
    """Warn of an image file of more than 8 bits, since loading drops the lower ones."""
    image = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    if image is not None and image.dtype != np.uint8:
        print_log(
            f"{path}: its pixels are {image.dtype}, of which the highest 8 bits are read; if its "
            "values fill less than that range, scale them and save 8-bit images.",
            "current",
            logging.WARNING,
        )
