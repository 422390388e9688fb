"""Compare runs: one table, and a page with plots, from their work_dirs or result.json files.

    python tools/analysis/compare_runs.py work_dirs/sweep --baseline sigmoid --html comparison.html

Runs that differ in their seed alone are taken together. docs/sweeps.md tells how to read it.
"""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from arguments import run_tool, tool_parser


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument(
        "runs", nargs="+", help="work_dirs, result.json files, or folders of them (a sweep's)"
    )
    parser.add_argument("--baseline", help="label of a group (default: the first)")
    parser.add_argument(
        "--test",
        choices=["welch", "paired"],
        default="welch",
        help="t-test of the differences: Welch's, or paired by seed (default: %(default)s)",
    )
    parser.add_argument(
        "--image-bins",
        metavar="N,N,...",
        help="also compare categories by their training images: at most 4, 5 to 10, 11 to 100 and "
        "more for 4,10,100",
    )
    parser.add_argument("--markdown", help="file for the tables")
    parser.add_argument("--csv", help="file for all metrics")
    parser.add_argument("--html", help="file for a page with tables and plots")
    parser.add_argument("--title", default="Comparison of runs", help="heading of the page")
    return parser.parse_args()


def compare(args: argparse.Namespace) -> None:
    from mmdet_eql.runs.groups import load_groups, parse_bounds, unfinished_runs
    from mmdet_eql.runs.page import format_page
    from mmdet_eql.runs.tables import format_csv, format_report
    from mmdet_eql.utils.errors import UserError, print_warnings_as_sentences
    from mmdet_eql.utils.files import write_text

    print_warnings_as_sentences()
    bounds = None if args.image_bins is None else parse_bounds(args.image_bins)
    groups = load_groups(args.runs, bounds)
    if left_out := unfinished_runs(args.runs):
        names = ", ".join(folder.name for folder in left_out)
        print(f"left out, since they are not done: {names}", file=sys.stderr)
    for record in (record for group in groups for record in group.records):
        if last := record.training.get("unfinished"):
            text = f"warning: {record.name}: its training is not done, but was validated at {last}"
            print(text, file=sys.stderr)
    labels = [group.label for group in groups]
    if args.baseline is not None and args.baseline not in labels:
        raise UserError(f"--baseline is {args.baseline!r}; give one of {', '.join(labels)}.")
    baseline = groups.pop(labels.index(args.baseline) if args.baseline else 0)
    groups.insert(0, baseline)
    report = format_report(groups, baseline, args.test)
    print(report)
    if args.markdown:
        write_text(args.markdown, report + "\n")
    if args.csv:
        write_text(args.csv, format_csv(groups, baseline, args.test))
    if args.html:
        write_text(args.html, format_page(groups, baseline, args.test, args.title))


if __name__ == "__main__":
    run_tool(compare, parse_args())
