"""Render MiniLVIS, a small long-tailed instance segmentation set in LVIS format."""

import argparse
import dataclasses
import os
import signal
import sys
from pathlib import Path

import msgspec

# What is registered for configs is not needed here and takes seconds to import.
os.environ["MMDET_EQL_REGISTER"] = "off"

from mmdet_eql.minilvis import MiniLVISConfig, make_minilvis
from mmdet_eql.minilvis.folder import annotation_path
from mmdet_eql.utils.errors import exit_on_user_error


def add_options(parser: argparse.ArgumentParser, kind: type) -> None:
    """Add an option for each field of a kind of config."""
    for option in dataclasses.fields(kind):
        name, text = f"--{option.name.replace('_', '-')}", option.metadata.get("help", "")
        if option.default is None:
            text = f"JSON file with a list, or annotations in LVIS's format: {text}"
            parser.add_argument(name, type=read_counts, metavar="FILE", help=text)
            continue
        parser.add_argument(
            name,
            type=type(option.default),
            default=option.default,
            metavar="N" if isinstance(option.default, int) else "X",
            help=f"{text} (default: %(default)s)".strip(),
        )


class Category(msgspec.Struct):
    image_count: int


class Annotations(msgspec.Struct):
    categories: list[Category]


def read_counts(path: str) -> list[int]:
    try:
        content = msgspec.json.decode(Path(path).read_bytes(), type=list[int] | Annotations)
    except (OSError, msgspec.MsgspecError) as error:
        reason = getattr(error, "strerror", None) or error
        raise argparse.ArgumentTypeError(
            f"{path}: {reason}; give a list such as [120, 7, 3], or annotations in LVIS's format."
        ) from None
    if isinstance(content, list):
        return content
    return [category.image_count for category in content.categories]


@exit_on_user_error
def main() -> None:
    # The configs look for it there, too.
    out = os.path.join(os.environ.get("MMDET_EQL_DATA", "data"), "minilvis")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", default=out, help=f"folder to make (default: {out})")
    add_options(parser, MiniLVISConfig)
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: one per core)"
    )
    parser.add_argument("--force", action="store_true", help="replace a MiniLVIS that is there")
    options = vars(parser.parse_args())
    out, workers, force = (options.pop(name) for name in ("out", "workers", "force"))
    # A batch system ends jobs so; exiting instead of dying removes the unfinished folder.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    make_minilvis(out, MiniLVISConfig(**options), num_workers=workers, force=force)
    path = os.path.join(out, annotation_path("train"))
    print(f"For a report on its long tail: python tools/analysis/class_frequency.py {path}")


if __name__ == "__main__":
    main()
