"""Train a detector; the interface is MMDetection's.

A config with features = "FOLDER" trains the classifier alone, on cached features.
"""

import argparse

from arguments import add_common_arguments, run_tool, tool_parser


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("config", help="config file")
    add_common_arguments(parser)
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision")
    parser.add_argument(
        "--amp-dtype",
        choices=["float16", "bfloat16"],
        help="of --amp: float16 by default on a GPU; on the CPU there is bfloat16 alone",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="give the same weights each time (see docs/reliability.md); with seed 0 if the config "
        "names none",
    )
    parser.add_argument(
        "--auto-scale-lr", action="store_true", help="scale the learning rate with the batch size"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        help="go on from this checkpoint, or without one from the last whole one in the work_dir",
    )
    return parser.parse_args()


def train(args: argparse.Namespace) -> None:
    from mmdet_eql.decoupled.training_config import check_options_on_features, train_on_features
    from mmdet_eql.engine import launch
    from mmdet_eql.engine.config_check import check_config
    from mmdet_eql.utils.errors import UserError

    cfg = launch.load_config(args)
    if cfg.get("features"):
        check_options_on_features(args.cfg_options or {})
    train_on_features(cfg)
    if args.amp:
        launch.enable_amp(cfg, args.amp_dtype)
    elif args.amp_dtype is not None:
        raise UserError("--amp-dtype: is the type of --amp; give that, too.")
    if args.deterministic:
        launch.enable_determinism(cfg)
    if args.auto_scale_lr:
        launch.enable_auto_scale_lr(cfg)
    launch.set_resume(cfg, args.resume)
    check_config(cfg)
    launch.fetch_weights(cfg)
    launch.build_runner(cfg, "train", "val").train()


if __name__ == "__main__":
    run_tool(train, parse_args())
