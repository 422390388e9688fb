"""Counting the boxes in an annotation file of the Open Images Challenge.

The text file lists the images, each as its path, a line without meaning, its number of boxes, and a
line per box: label from 1 on, x1, y1, x2, y2 relative to the image, and whether it is a group.
"""

import numpy as np

from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import local_copy


def count_challenge_boxes(
    ann_file: str, num_classes: int, backend_args: dict | None = None
) -> np.ndarray:
    """Count the boxes of each category in a file, int64 of shape (``num_classes``,).

    ``backend_args`` are those of mmengine's file backend.

    Raises:
        UserError: If the file cannot be read.
    """
    count = np.zeros(num_classes, dtype=np.int64)
    try:
        with (
            local_copy(ann_file, backend_args) as local_path,
            open(local_path, encoding="utf-8") as file,
        ):
            while next(file, ""):
                next(file)
                for _ in range(int(next(file))):
                    label = int(next(file).split(maxsplit=1)[0])
                    if not 1 <= label <= num_classes:
                        raise ValueError(f"label {label} of {num_classes}")
                    count[label - 1] += 1
    except (OSError, ValueError, IndexError, StopIteration) as error:
        reason = "cut off" if isinstance(error, StopIteration) else error
        raise UserError(
            f"{ann_file}: cannot be read as annotations of the Open Images Challenge ({reason}); "
            "correct 'train_ann_file' of the evaluator."
        ) from None
    return count
