"""Draw which categories are pushed up and which down: positive over negative gradients.

    python tools/analysis/plot_gradients.py sigmoid=work_dirs/sigmoid eql=work_dirs/eql
    python tools/analysis/plot_gradients.py eql=work_dirs/eql_seed0 eql=work_dirs/eql_seed1

Runs that have the same name, such as seeds, are added up. They have to be trained with the hook
that records gradients:

    python tools/train.py CONFIG --cfg-options default_hooks.gradient_record.type=GradientRecordHook
"""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from arguments import run_tool, tool_parser


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="[NAME=]RUN",
        help="work_dirs with a gradient_record.npz, or such files; named after the folder if no "
        "name is given",
    )
    parser.add_argument(
        "--out", default="gradients.png", help="PNG, PDF or SVG file (default: %(default)s)"
    )
    return parser.parse_args()


def plot(args: argparse.Namespace) -> None:
    from mmdet_eql.analysis.gradient_plot import format_ratios, plot_gradients
    from mmdet_eql.engine.gradient_file import load_gradient_record, pool_records

    records = {}
    for run in args.runs:
        # Folders of a sweep have equals signs in their names, too.
        name, equals, path = run.partition("=")
        if not equals or Path(run).exists() or "/" in name:
            name, path = "", run
        folder = Path(path).parent if Path(path).suffix == ".npz" else Path(path)
        records.setdefault(name or folder.resolve().name, []).append(load_gradient_record(path))
    records = {name: pool_records(of_name) for name, of_name in records.items()}
    plot_gradients(records, args.out)
    print(format_ratios(records))
    print(f"\nDrawn to {args.out}")


if __name__ == "__main__":
    run_tool(plot, parse_args())
