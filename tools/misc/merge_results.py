"""Merge result files of several models into one, by weighted box fusion.

All files hold boxes, or all hold masks, as LVISFastMetric writes them with 'outfile_prefix'. Masks
are fused by the boxes around them.
"""

import os
import sys
from pathlib import Path

# What is registered for configs is not needed here and takes seconds to import.
os.environ["MMDET_EQL_REGISTER"] = "off"
sys.path.append(str(Path(__file__).resolve().parents[1]))

from arguments import positive, tool_parser

from mmdet_eql.evaluation.result_fusion import FusionConfig, fuse_files
from mmdet_eql.utils.errors import exit_on_user_error, print_warnings_as_sentences


@exit_on_user_error
def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument("results", nargs="+", help="result files (.json), one per model")
    parser.add_argument(
        "--ann-file", required=True, help="annotation file that they belong to, or image_info_test"
    )
    parser.add_argument("-o", "--out", required=True, help="result file to write")
    parser.add_argument("--weights", nargs="+", type=float, help="weight per file (default: 1)")
    parser.add_argument(
        "--iou-threshold",
        type=float,
        default=FusionConfig.iou_threshold,
        help="boxes of a category that overlap by more become one (default: %(default)s)",
    )
    parser.add_argument(
        "--masks",
        choices=["average", "best"],
        default=FusionConfig.masks,
        help="average masks, or take that of the best score (default: %(default)s)",
    )
    parser.add_argument(
        "--max-per-image",
        type=int,
        default=FusionConfig.max_per_image,
        help="detections to keep per image (default: %(default)s)",
    )
    parser.add_argument("--num-workers", type=positive, default=1, help="processes (default: 1)")
    args = parser.parse_args()
    print_warnings_as_sentences()
    config = FusionConfig(
        weights=tuple(args.weights or [1.0] * len(args.results)),
        iou_threshold=args.iou_threshold,
        max_per_image=args.max_per_image,
        masks=args.masks,
    )
    num_read, num_written = fuse_files(
        args.results, args.ann_file, args.out, config, args.num_workers
    )
    print(f"wrote {args.out}: {num_written:,} detections, fused from {num_read:,}")


if __name__ == "__main__":
    main()
