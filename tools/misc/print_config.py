"""Print a config with all of its bases and --cfg-options merged."""

import argparse

from mmengine.config import DictAction

from mmdet_eql.engine import launch
from mmdet_eql.utils.errors import exit_on_user_error


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="override keys")
    args = parser.parse_args()
    cfg = launch.read_config(args.config)
    launch.merge_options(cfg, args.cfg_options)
    print(cfg.pretty_text)


if __name__ == "__main__":
    main()
