"""MiniLVIS in other formats: as a COCO set, and in the layout of the Open Images Challenge 2019.

The images stay where they are; the new folder links to them.
"""

import json
import os
import pickle
from pathlib import Path

import numpy as np

from mmdet_eql.annotations import AnnotationColumns
from mmdet_eql.minilvis.folder import read_minilvis
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import atomic_write, write_text

_CHALLENGE = "challenge2019/challenge-2019"
_CHALLENGE_SPLITS = {"train": "train", "val": "validation"}


def write_as_coco(source: str | os.PathLike, out: str | os.PathLike) -> None:
    """Write a set in COCO format, as docs/custom-data.md lays it out, without what only LVIS has.

    Raises:
        UserError: If ``source`` holds no MiniLVIS set, or ``out`` cannot be written.
    """
    for split, columns in read_minilvis(source).items():
        image_ids, category_ids = columns.image_id.tolist(), columns.category_id.tolist()
        content = {
            "images": [
                {"id": image_id, "height": height, "width": width, "file_name": name}
                for image_id, (height, width), name in zip(
                    image_ids, columns.image_size.tolist(), _names(columns), strict=True
                )
            ],
            "annotations": [
                {
                    "id": int(columns.annotation_id[number]),
                    "image_id": image_ids[image],
                    "category_id": category_ids[columns.category[number]],
                    "bbox": columns.box[number].tolist(),
                    "area": float(columns.area[number]),
                    "segmentation": columns.segmentation(number),
                    "iscrowd": 0,
                }
                for number, image in enumerate(columns.annotation_image.tolist())
            ],
            "categories": [
                {"id": category_id, "name": name}
                for category_id, name in zip(category_ids, columns.category_name, strict=True)
            ],
        }
        write_text(Path(out) / "annotations" / f"{split}.json", json.dumps(content))
        _link(Path(source) / split, Path(out) / split)


def write_as_open_images(source: str | os.PathLike, out: str | os.PathLike) -> None:
    """Write a set in the layout of the Open Images Challenge 2019, as docs/open-images.md has it.

    The categories known to be in an image, and those known not to be, are its verified labels. No
    category is a parent of another one, and no box is one of a group of objects.

    Raises:
        UserError: If ``source`` holds no MiniLVIS set, or ``out`` cannot be written.
    """
    out = Path(out)
    for split, columns in read_minilvis(source).items():
        folder = _CHALLENGE_SPLITS[split]
        lines, shapes, verified = [], [], [("ImageID", "LabelName", "Confidence")]
        for image, name in enumerate(_names(columns)):
            # As in the challenge's files, images for validation are named with their folder.
            path = name if split == "train" else f"{folder}/{name}"
            here = columns.annotations(image)
            height, width = columns.image_size[image].tolist()
            # Labels count from 1.
            labels = (columns.category[here] + 1).tolist()
            corners = columns.box[here].copy()
            corners[:, 2:] += corners[:, :2]
            corners /= (width, height, width, height)
            lines += [path, "#", str(len(labels))]
            for label, box in zip(labels, corners.tolist(), strict=True):
                lines.append(f"{label} {' '.join(f'{value:.6f}' for value in box)} 0")
            shapes.append({"filename": path, "ori_shape": (height, width, 3)})
            absent = (columns.negatives(image) + 1).tolist()
            verified += [(Path(path).stem, _mid(label), 1) for label in sorted(set(labels))]
            verified += [(Path(path).stem, _mid(label), 0) for label in sorted(absent)]
        write_text(out / f"{_CHALLENGE}-{folder}-detection-bbox.txt", "\n".join(lines) + "\n")
        write_text(out / f"{_CHALLENGE}-{folder}-detection-human-imagelabels.csv", _csv(verified))
        with atomic_write(out / f"{_CHALLENGE}-{folder}-metas.pkl") as unfinished:
            unfinished.write_bytes(pickle.dumps(shapes))
        _link(Path(source) / split, out / "OpenImages" / folder)

    rows = [(_mid(label), name, label) for label, name in enumerate(columns.category_name, start=1)]
    write_text(out / "challenge2019" / "cls-label-description.csv", _csv(rows))
    with (
        atomic_write(out / "challenge2019" / "class_label_tree.np") as unfinished,
        open(unfinished, "wb") as file,
    ):
        np.save(file, np.eye(len(rows) + 1))


def _names(columns: AnnotationColumns) -> list[str]:
    return [Path(columns.path(image)).name for image in range(columns.num_images)]


def _mid(label: int) -> str:
    """A name in the form of Open Images' machine-generated ones."""
    return f"/m/{label:04d}"


def _csv(rows: list[tuple]) -> str:
    # Neither ids nor names of MiniLVIS need quotes.
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


def _link(folder: Path, link: Path) -> None:
    """Make a link to a folder; one that leads there already is left as it is."""
    if link.exists() and link.resolve() == folder.resolve():
        return
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(folder.resolve(), link.parent.resolve()))
    except OSError as error:
        raise UserError(
            f"{link}: cannot be made a link to the images ({error.strerror}); remove it or give "
            "another folder."
        ) from None
