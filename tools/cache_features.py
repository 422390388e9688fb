"""Cache the features of a trained detector, for the training of classifiers on them."""

import argparse

from arguments import add_common_arguments, positive, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file, of the data that a classifier is trained on")
    parser.add_argument("checkpoint", help="checkpoint file of the detector")
    parser.add_argument("--out", required=True, help="folder for the features")
    parser.add_argument(
        "--rois", type=positive, help="RoIs of a training image (default: as in the config)"
    )
    parser.add_argument(
        "--flips", action="store_true", help="cache the training images mirrored, too"
    )
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16")
    add_common_arguments(parser)
    return parser.parse_args()


def cache(args: argparse.Namespace) -> None:
    import os.path as osp

    from mmdet_eql.decoupled.feature_extraction import cache_features
    from mmdet_eql.engine import launch
    from mmdet_eql.engine.config_check import check_config

    if args.work_dir is None:
        args.work_dir = osp.join(args.out, "logs")
    cfg = launch.load_config(args)
    cfg.resume = False
    check_config(cfg)
    cache_features(cfg, args.out, args.dtype, args.rois, args.flips)


if __name__ == "__main__":
    run_tool(cache, parse_args())
