"""MiniLVIS in other formats: as a COCO set, and in the layout of the Open Images Challenge 2019.

The images stay where they are; the new folder links to them.
"""

import csv
import io
import json
import os
import pickle
from pathlib import Path

import numpy as np

from mmdet_eql.annotations.checks import FEDERATED_FIELDS, load_lvis_json
from mmdet_eql.minilvis.config import SPLITS
from mmdet_eql.minilvis.folder import annotation_path, read_marker
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import atomic_write, write_text

_CHALLENGE = "challenge2019/challenge-2019"
_CHALLENGE_SPLITS = {"train": "train", "val": "validation"}


def write_as_coco(source: str | os.PathLike, out: str | os.PathLike) -> None:
    """Write a set in COCO format, as docs/custom-data.md lays it out, without what only LVIS has.

    Args:
        source (str | os.PathLike): Folder of a finished MiniLVIS set.
        out (str | os.PathLike): Folder to write.

    Raises:
        UserError: If the source holds no such set, or the folder cannot be written.
    """
    for split, data in _read(source).items():
        images = [
            {
                key: image[key]
                for key in image
                if key not in (*FEDERATED_FIELDS, "coco_url", "flickr_url")
            }
            | {"file_name": Path(image["file_name"]).name}
            for image in data["images"]
        ]
        content = {
            "images": images,
            "annotations": [{**annotation, "iscrowd": 0} for annotation in data["annotations"]],
            "categories": [
                {key: category[key] for key in ("id", "name")} for category in data["categories"]
            ],
        }
        write_text(Path(out) / "annotations" / f"{split}.json", json.dumps(content))
        _link(Path(source) / split, Path(out) / split)


def write_as_open_images(source: str | os.PathLike, out: str | os.PathLike) -> None:
    """Write a set in the layout of the Open Images Challenge 2019, as docs/open-images.md has it.

    The categories known to be in an image, and those known not to be, are its verified labels. No
    category is a parent of another one, and no box is one of a group of objects.

    Args:
        source (str | os.PathLike): Folder of a finished MiniLVIS set.
        out (str | os.PathLike): Folder to write.

    Raises:
        UserError: If the source holds no such set, or the folder cannot be written.
    """
    out = Path(out)
    for split, data in _read(source).items():
        categories = sorted(category["id"] for category in data["categories"])
        label_of = {identifier: label for label, identifier in enumerate(categories, start=1)}
        name = _CHALLENGE_SPLITS[split]
        # As in the challenge's files, images for validation are named with their folder.
        folder = "" if split == "train" else f"{name}/"
        boxes: dict[int, list[str]] = {image["id"]: [] for image in data["images"]}
        present: dict[int, set[int]] = {image["id"]: set() for image in data["images"]}
        sizes = {image["id"]: (image["width"], image["height"]) for image in data["images"]}
        for annotation in data["annotations"]:
            image_id, label = annotation["image_id"], label_of[annotation["category_id"]]
            left, top, width, height = annotation["bbox"]
            corners = np.array([left, top, left + width, top + height]) / np.tile(
                sizes[image_id], 2
            )
            boxes[image_id].append(f"{label} {' '.join(f'{value:.6f}' for value in corners)} 0")
            present[image_id].add(label)

        lines, shapes, verified = [], [], [("ImageID", "LabelName", "Confidence")]
        for image in data["images"]:
            path = folder + Path(image["file_name"]).name
            lines += [path, "#", str(len(boxes[image["id"]])), *boxes[image["id"]]]
            shapes.append({"filename": path, "ori_shape": (image["height"], image["width"], 3)})
            absent = {label_of[category] for category in image["neg_category_ids"]}
            for confidence, labels in ((1, present[image["id"]]), (0, absent)):
                verified += [(Path(path).stem, _mid(label), confidence) for label in sorted(labels)]
        write_text(out / f"{_CHALLENGE}-{name}-detection-bbox.txt", "\n".join(lines) + "\n")
        write_text(out / f"{_CHALLENGE}-{name}-detection-human-imagelabels.csv", _csv(verified))
        with atomic_write(out / f"{_CHALLENGE}-{name}-metas.pkl") as unfinished:
            unfinished.write_bytes(pickle.dumps(shapes))
        _link(Path(source) / split, out / "OpenImages" / name)

    names = {category["id"]: category["name"] for category in data["categories"]}
    rows = [(_mid(label), names[identifier], label) for identifier, label in label_of.items()]
    write_text(out / "challenge2019" / "cls-label-description.csv", _csv(rows))
    with (
        atomic_write(out / "challenge2019" / "class_label_tree.np") as unfinished,
        open(unfinished, "wb") as file,
    ):
        np.save(file, np.eye(len(names) + 1))


def _read(source: str | os.PathLike) -> dict[str, dict]:
    """The annotation files of a set by their splits."""
    if read_marker(source) is None:
        raise UserError(
            f"{source}: holds no MiniLVIS set; make one with tools/datasets/make_minilvis.py first."
        )
    return {split: load_lvis_json(str(Path(source) / annotation_path(split))) for split in SPLITS}


def _mid(label: int) -> str:
    """A name in the form of Open Images' machine-generated ones."""
    return f"/m/{label:04d}"


def _csv(rows: list[tuple]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


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
