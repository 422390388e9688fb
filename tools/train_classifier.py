"""Train the classifier of a detector on cached features.

    python tools/cache_features.py CONFIG CHECKPOINT --out FOLDER
    python tools/train_classifier.py CONFIG --features FOLDER

CONFIG may have another loss, classifier or sampler than the one that made the features.
docs/decoupled.md describes the schedule; the other options are those of train.py.
"""

from arguments import run_tool
from train import make_parser, train

if __name__ == "__main__":
    parser = make_parser(__doc__)
    parser.add_argument("--features", required=True, help="folder of cache_features.py")
    args = parser.parse_args()
    args.cfg_options = {**(args.cfg_options or {}), "features": args.features}
    run_tool(train, args)
