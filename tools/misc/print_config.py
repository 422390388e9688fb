"""Print a config with all of its bases and --cfg-options merged."""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from arguments import add_cfg_options, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    add_cfg_options(parser)
    return parser.parse_args()


def print_config(args: argparse.Namespace) -> None:
    from mmdet_eql.engine import launch

    cfg = launch.read_config(args.config)
    launch.merge_options(cfg, args.cfg_options)
    print(cfg.pretty_text)


if __name__ == "__main__":
    run_tool(print_config, parse_args())
