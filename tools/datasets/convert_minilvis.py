"""Write MiniLVIS as a COCO set, or in the layout of the Open Images Challenge 2019."""

import argparse
import os
from pathlib import Path

# What is registered for configs is not needed here and takes seconds to import.
os.environ["MMDET_EQL_REGISTER"] = "off"

from mmdet_eql.minilvis.conversion import write_as_coco, write_as_open_images
from mmdet_eql.utils.errors import exit_on_user_error

WRITERS = {"coco": write_as_coco, "openimages": write_as_open_images}


@exit_on_user_error
def main() -> None:
    # The configs look for both there, too.
    data = Path(os.environ.get("MMDET_EQL_DATA", "data"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("format", choices=WRITERS)
    parser.add_argument(
        "out", nargs="?", type=Path, help=f"folder to write (default: {data}/minilvis_FORMAT)"
    )
    parser.add_argument(
        "--source", type=Path, default=data / "minilvis", help="MiniLVIS (default: %(default)s)"
    )
    args = parser.parse_args()
    out = args.out or data / f"minilvis_{args.format}"
    WRITERS[args.format](args.source, out)
    print(f"{out}: written; its images are those of {args.source}.")


if __name__ == "__main__":
    main()
