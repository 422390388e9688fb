"""Calibrate the scores of a trained detector, without training: NorCal, logit adjustment,
temperature and tau-normalisation.

Each method's parameter is chosen on training images. WORK_DIR/calibrated.pth is the checkpoint with
the best calibration in its classifier. See docs/test-time.md.
"""

import argparse

from arguments import add_common_arguments, positive, run_tool, tool_parser


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    add_common_arguments(parser)
    parser.add_argument(
        "--images",
        type=positive,
        default=1000,
        help="training images to choose on (default: 1,000)",
    )
    parser.add_argument(
        "--grid",
        nargs="+",
        metavar="METHOD=VALUE,...",
        help="what to try instead of the default, as norcal=0.2,0.4 tau-norm=0.5",
    )
    items = ("AP", "AP50", "AP75", "APr", "APc", "APf")
    metrics = [kind + item for kind in ("", "fixed_", "pooled_") for item in items]
    parser.add_argument(
        "--by", default="AP", choices=metrics, help="metric to choose by (default: AP)"
    )
    parser.add_argument(
        "--max-per-img",
        type=positive,
        help="detections of an image for Fixed AP and pooled AP, by default those of the config",
    )
    return parser.parse_args()


def calibrate(args: argparse.Namespace) -> None:
    from mmdet_eql.decoupled.calibration_run import read_grid, run_calibration
    from mmdet_eql.engine import launch
    from mmdet_eql.engine.config_check import check_config
    from mmdet_eql.engine.config_keys import check_test_options

    cfg = launch.load_config(args)
    check_test_options(args.cfg_options or {})
    grid = read_grid(args.grid)
    check_config(cfg, ["test"])
    run_calibration(cfg, grid, args.images, args.by, args.max_per_img)


if __name__ == "__main__":
    run_tool(calibrate, parse_args())
