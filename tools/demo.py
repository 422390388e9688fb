"""Draw what a model finds in images, coloured by frequency group.

    python tools/demo.py photo.jpg folder_of_images --config CONFIG --checkpoint CHECKPOINT

Categories and their groups come from the checkpoint. MMDetection's own DetInferencer takes our
checkpoints, too: DetInferencer(model=CONFIG, weights=CHECKPOINT).
"""

import argparse

from arguments import add_cfg_options, positive, run_tool, tool_parser


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("images", nargs="+", help="images and folders of images")
    parser.add_argument("--config", required=True, help="config of the model")
    parser.add_argument("--checkpoint", required=True, help="its checkpoint")
    parser.add_argument(
        "--out-dir", default="work_dirs/demo", help="folder for the pictures (default: %(default)s)"
    )
    parser.add_argument(
        "--score-thr", type=float, default=0.3, help="least score (default: %(default)s)"
    )
    parser.add_argument(
        "--max-instances", type=positive, default=50, help="per image (default: %(default)s)"
    )
    add_cfg_options(parser)
    return parser.parse_args()


def draw(args: argparse.Namespace) -> None:
    from mmdet_eql.analysis.drawing import draw_images, find_images
    from mmdet_eql.engine.launch import merge_options, read_config

    images = find_images(args.images)
    config = read_config(args.config)
    merge_options(config, args.cfg_options)
    paths = draw_images(
        images, config, args.checkpoint, args.out_dir, args.score_thr, args.max_instances
    )
    print("\n".join(map(str, paths)))


if __name__ == "__main__":
    run_tool(draw, parse_args())
