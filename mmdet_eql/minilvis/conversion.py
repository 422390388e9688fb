"""MiniLVIS in other formats: as a COCO set, and in the layout of the Open Images Challenge 2019.

The images stay where they are; the new folder links to them.
"""

import json
import os
import pickle
from collections import defaultdict
from pathlib import Path

import numpy as np

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
    for split, lvis in read_minilvis(source).items():
        content = {
            "images": [
                {key: image[key] for key in ("id", "height", "width")} | {"file_name": _name(image)}
                for image in lvis["images"]
            ],
            "annotations": [annotation | {"iscrowd": 0} for annotation in lvis["annotations"]],
            "categories": [{"id": c["id"], "name": c["name"]} for c in lvis["categories"]],
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
    for split, lvis in read_minilvis(source).items():
        folder = _CHALLENGE_SPLITS[split]
        annotations = defaultdict(list)
        for annotation in lvis["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        lines, shapes, verified = [], [], [("ImageID", "LabelName", "Confidence")]
        for image in lvis["images"]:
            # As in the challenge's files, images for validation are named with their folder.
            path = _name(image) if split == "train" else f"{folder}/{_name(image)}"
            here = annotations[image["id"]]
            lines += [path, "#", str(len(here))]
            for annotation in here:
                x, y, w, h = annotation["bbox"]
                # Images are square. Category ids and labels both count from 1.
                box = (f"{value / image['width']:.6f}" for value in (x, y, x + w, y + h))
                lines.append(f"{annotation['category_id']} {' '.join(box)} 0")
            shapes.append({"filename": path, "ori_shape": (image["height"], image["width"], 3)})
            present = sorted({annotation["category_id"] for annotation in here})
            for labels, known in ((present, 1), (image["neg_category_ids"], 0)):
                verified += [(Path(path).stem, _mid(label), known) for label in labels]
        write_text(out / f"{_CHALLENGE}-{folder}-detection-bbox.txt", "\n".join(lines) + "\n")
        write_text(out / f"{_CHALLENGE}-{folder}-detection-human-imagelabels.csv", _csv(verified))
        with atomic_write(out / f"{_CHALLENGE}-{folder}-metas.pkl") as unfinished:
            unfinished.write_bytes(pickle.dumps(shapes))
        _link(Path(source) / split, out / "OpenImages" / folder)

    rows = [(_mid(item["id"]), item["name"], item["id"]) for item in lvis["categories"]]
    write_text(out / "challenge2019" / "cls-label-description.csv", _csv(rows))
    with (
        atomic_write(out / "challenge2019" / "class_label_tree.np") as unfinished,
        open(unfinished, "wb") as file,
    ):
        np.save(file, np.eye(len(rows) + 1))


def _name(image: dict) -> str:
    return Path(image["file_name"]).name


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
