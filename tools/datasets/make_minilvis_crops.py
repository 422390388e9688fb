"""Render MiniLVIS crops, a small set for long-tailed image classification."""

import argparse
import os
from pathlib import Path

from make_minilvis import add_options

from mmdet_eql.minilvis.crops import CropsConfig, make_crops
from mmdet_eql.utils.errors import UserError, exit_on_user_error


@exit_on_user_error
def main() -> None:
    # The configs look for it there, too.
    out = Path(os.environ.get("MMDET_EQL_DATA", "data")) / "minilvis_crops.npz"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "out", nargs="?", type=Path, default=out, help="file to make (default: %(default)s)"
    )
    add_options(parser, CropsConfig)
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    options = vars(parser.parse_args())
    out, force = options.pop("out"), options.pop("force")
    if out.exists() and not force:
        raise UserError(f"{out}: exists; give --force to make it again.")
    make_crops(out, CropsConfig(**options))


if __name__ == "__main__":
    main()
