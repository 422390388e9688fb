"""Test and evaluate a detector; the interface is MMDetection's."""

import argparse

from arguments import add_common_arguments, run_tool


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    add_common_arguments(parser)
    parser.add_argument("--out", help="also dump all predictions to this .pkl file")
    parser.add_argument("--show", action="store_true", help="show predictions in a window")
    parser.add_argument("--show-dir", help="save painted images to WORK_DIR/TIMESTAMP/SHOW_DIR")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds each image is shown")
    parser.add_argument("--tta", action="store_true", help="augment images at test time")
    return parser.parse_args()


def test(args: argparse.Namespace) -> None:
    from mmdet_eql.engine import launch
    from mmdet_eql.engine.config_check import check_config
    from mmdet_eql.engine.config_keys import check_test_options
    from mmdet_eql.utils.errors import UserError
    from mmdet_eql.utils.files import check_writable

    cfg = launch.load_config(args)
    check_test_options(args.cfg_options or {})
    if args.tta:
        launch.enable_tta(cfg)
    launch.set_visualization(cfg, args.show, args.show_dir, args.wait_time)
    if args.out is not None and not args.out.endswith((".pkl", ".pickle")):
        raise UserError(f"--out {args.out}: the file must end in .pkl or .pickle.")
    if args.out is not None:
        check_writable(args.out, "choose another --out")
    check_config(cfg, ["test"])
    runner = launch.build_runner(cfg, "test")
    if args.out is not None:
        launch.dump_predictions(runner, args.out)
    runner.test()


if __name__ == "__main__":
    run_tool(test, parse_args())
