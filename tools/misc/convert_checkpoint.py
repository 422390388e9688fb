"""Write a copy of a checkpoint that you trust, without anything that loading would have to run.

Loading SOURCE runs whatever it carries: do this only with checkpoints from people you trust, best
in a container. TARGET holds its tensors and plain values.
"""

import argparse

from mmdet_eql.engine.checkpoint import convert_checkpoint
from mmdet_eql.utils.errors import exit_on_user_error


@exit_on_user_error
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="checkpoint to read")
    parser.add_argument("target", help="checkpoint to write; must not exist")
    args = parser.parse_args()
    dropped = convert_checkpoint(args.source, args.target)
    print(f"wrote {args.target}")
    for key in dropped:
        print(f"left out: {key}")


if __name__ == "__main__":
    main()
