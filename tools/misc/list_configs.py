"""List the experiments below configs/, one line each: what they train, with what and on what."""

import argparse
from pathlib import Path

from mmdet_eql.analysis.config_files import ConfigReader, find_experiments
from mmdet_eql.analysis.config_summary import summarize
from mmdet_eql.utils.errors import UserError, exit_on_user_error


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parents[2] / "configs"
    parser.add_argument("folder", nargs="?", type=Path, default=default, help="default: configs/")
    args = parser.parse_args()
    paths = find_experiments(args.folder)
    if not paths:
        raise UserError(f"{args.folder}: holds no configs; give a folder that does.")
    reader = ConfigReader()
    for path in paths:
        parts = (path.relative_to(args.folder), *summarize(reader.read(path)))
        print(" | ".join(str(part) for part in parts if part))


if __name__ == "__main__":
    main()
