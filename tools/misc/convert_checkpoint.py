"""Write a copy of a checkpoint that you trust, without anything that loading would have to run.

Loading SOURCE runs whatever it carries: do this only with checkpoints from people you trust, best
in a container. TARGET holds its tensors and plain values.
"""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from arguments import run_tool, tool_parser


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("source", help="checkpoint to read")
    parser.add_argument("target", help="checkpoint to write; must not exist")
    return parser.parse_args()


def convert(args: argparse.Namespace) -> None:
    from mmdet_eql.engine.checkpoint import convert_checkpoint

    dropped = convert_checkpoint(args.source, args.target)
    print(f"wrote {args.target}")
    for key in dropped:
        print(f"left out: {key}")


if __name__ == "__main__":
    run_tool(convert, parse_args())
