"""Render MiniLVIS crops, a small set for long-tailed image classification."""

import argparse
import dataclasses
import os
from pathlib import Path

# What is registered for configs is not needed here and takes seconds to import.
os.environ["MMDET_EQL_REGISTER"] = "off"

from mmdet_eql.minilvis.crops import CropsConfig, make_crops
from mmdet_eql.utils.errors import UserError, exit_on_user_error


def parse_args() -> argparse.Namespace:
    # The configs look for it there, too.
    out = Path(os.environ.get("MMDET_EQL_DATA", "data")) / "minilvis_crops.npz"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "out", nargs="?", type=Path, default=out, help="file to make (default: %(default)s)"
    )
    for option in dataclasses.fields(CropsConfig):
        parser.add_argument(
            f"--{option.name.replace('_', '-')}",
            type=type(option.default),
            default=option.default,
            metavar="N" if isinstance(option.default, int) else "X",
            help="(default: %(default)s)",
        )
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    return parser.parse_args()


@exit_on_user_error
def main() -> None:
    args = parse_args()
    if args.out.exists() and not args.force:
        raise UserError(f"{args.out}: exists; give --force to make it again.")
    options = {field.name: getattr(args, field.name) for field in dataclasses.fields(CropsConfig)}
    make_crops(args.out, CropsConfig(**options))


if __name__ == "__main__":
    main()
