"""Evaluate result files of any framework by the LVIS protocol, side by side.

    python tools/evaluate.py lvis_v1_val.json work_dirs/a.bbox.json ../other/predictions.json

Prints a Markdown table of metrics in percent. Neither PyTorch nor MMDetection is needed.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

# What is registered for configs is not needed here and takes seconds to import.
os.environ["MMDET_EQL_REGISTER"] = "off"
sys.path.append(str(Path(__file__).resolve().parents[1]))

from arguments import positive, tool_parser

from mmdet_eql.utils.errors import UserError, exit_on_user_error, print_warnings_as_sentences


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("ground_truth", help="annotation file in LVIS or COCO format (.json, .gz)")
    parser.add_argument(
        "results",
        nargs="+",
        help="result file (.json, .gz), or folder or quoted pattern of the shards of one",
    )
    parser.add_argument("--iou-type", choices=["bbox", "segm", "boundary"], default="bbox")
    for name, of in (("--fixed-ap", "Fixed AP"), ("--pooled-ap", "pooled AP")):
        parser.add_argument(
            name,
            metavar="N",
            nargs="?",
            type=positive,
            const=True,
            help=f"add {of}, of the N best detections of each category (default: 10,000)",
        )
    parser.add_argument(
        "--bootstrap",
        metavar="N",
        nargs="?",
        type=positive,
        const=True,
        help="add 95 %% intervals from N draws of images (default: 1,000), and what the files gain "
        "over the first one",
    )
    parser.add_argument(
        "--errors", action="store_true", help="add what each kind of error costs, in AP50"
    )
    parser.add_argument(
        "--images",
        help="evaluate on these images alone: a JSON list of ids, an annotation file, or a text "
        "file with an id or COCO file name on each line",
    )
    parser.add_argument(
        "--train-ann-file",
        metavar="FILE",
        help="training annotations, by whose numbers of images categories are rare, common or "
        "frequent (default: by the field 'frequency')",
    )
    parser.add_argument("--classwise", action="store_true", help="add the AP of each category")
    parser.add_argument("--json", help="write metrics, as fractions, to this JSON file")
    parser.add_argument("--plot", help="draw metrics and errors to this PNG, PDF or SVG file")
    parser.add_argument("--csv", help="write metrics, as fractions, to this CSV file")
    return parser.parse_args()


@exit_on_user_error
def main() -> None:
    args = parse_args()
    print_warnings_as_sentences()

    from mmdet_eql.evaluation import compare_files, tables
    from mmdet_eql.utils.files import check_writable, write_text

    written = list(filter(None, (args.json, args.csv, args.plot)))
    read = filter(None, (args.ground_truth, *args.results, args.images, args.train_ann_file))
    places = [os.path.realpath(path) for path in (*written, *read)]
    for path in written:
        if places.count(os.path.realpath(path)) > 1:
            raise UserError(f"{path}: is read, or written twice; write to a file of its own.")
        check_writable(path)
    files = compare_files(
        args.ground_truth,
        args.results,
        args.iou_type,
        args.images,
        args.fixed_ap,
        args.pooled_ap,
        args.bootstrap,
        args.errors,
        args.train_ann_file,
    )
    if args.json:
        write_text(args.json, tables.comparison_json(files, args.classwise))
    if args.csv:
        write_text(args.csv, tables.comparison_csv(files, args.classwise))
    # As any command, this one ends in silence where it is piped to `head`.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    print(tables.comparison_table(files))
    if args.errors:
        print("\n" + tables.error_table(files))
    if args.classwise:
        print("\n" + tables.category_comparison(files))
    if args.plot:
        from mmdet_eql.evaluation.comparison_plot import plot_files

        plot_files(files, args.plot)


if __name__ == "__main__":
    main()
