"""Go through the data of a config, or an annotation file and its images, and say what is wrong.

    python tools/datasets/check.py CONFIG
    python tools/datasets/check.py ANN_FILE IMAGE_FOLDER

Images and semantic maps are read and decoded once, by all cores. Prints a summary, writes every
finding to a JSON file, and exits with status 1 if a training would stop or silently lose something.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

from arguments import positive, run_tool, tool_parser


def parse_args() -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument("source", metavar="CONFIG or ANN_FILE", help="config or annotation file")
    parser.add_argument("images", metavar="IMAGE_FOLDER", nargs="?", help="of an annotation file")
    parser.add_argument("--out", default="data_check.json", help="default: %(default)s")
    parser.add_argument("--workers", type=positive, help="processes; default: one for each core")
    return parser.parse_args()


def data_sets_of(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The data sets, as arguments of ``check_data_set``."""
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope

    from mmdet_eql.datasets import LVISFormatDataset
    from mmdet_eql.engine.launch import read_config
    from mmdet_eql.utils.errors import UserError

    if args.images is not None:
        options = {"ann_file": args.source, "data_prefix": {"img": args.images}, "pipeline": []}
        yield {"options": options, "training": True}
        return
    if not args.source.endswith(".py"):
        raise UserError(f"{args.source}: is no config; name the image folder as well.")
    cfg = read_config(args.source)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    head = cfg.get("model", {}).get("roi_head", {}).get("semantic_head") or {}
    done = []
    for split in ("train", "val", "test"):
        loader = cfg.get(f"{split}_dataloader") or {}
        for options in inner_data_sets(loader.get("dataset")):
            if not issubclass(DATASETS.get(options["type"]), LVISFormatDataset):
                print(f"{options['type']} of {split}_dataloader is not checked.")
                continue
            place = [options.get(key) for key in ("ann_file", "data_root", "data_prefix")]
            if place in done:
                continue
            done.append(place)
            loading = str(options.get("pipeline", ""))
            yield {
                "options": {key: value for key, value in options.items() if key != "type"},
                "training": split == "train",
                "num_semantic": head.get("num_classes"),
                "turns": "ignore_orientation" not in loading,
            }


def inner_data_sets(dataset: Any) -> Iterator[dict]:
    """The data sets in a wrapper, or the one that is none."""
    if isinstance(dataset, dict):
        inner = dataset.get("datasets", [dataset.get("dataset")])
        if any(inner):
            for part in inner:
                yield from inner_data_sets(part)
        elif "type" in dataset:
            yield dataset


def summarize(findings: list[Any]) -> str:
    width = max(len(finding.what) for finding in findings)
    return "\n".join(
        f"  {'!' if finding.stops else ' '} {finding.what:{width}}  {len(finding.places):9,}  "
        f"{finding.places[0]}"
        for finding in findings
    )


def check(args: argparse.Namespace) -> None:
    from mmdet_eql.analysis.data_check import check_data_set
    from mmdet_eql.evaluation.lvis_results import write_json

    seen: dict[bytes, str] = {}
    results, stops = [], False
    for data_set in data_sets_of(args):
        ann_file = data_set["options"]["ann_file"]
        report, findings = check_data_set(**data_set, seen=seen, num_workers=args.workers)
        print(report.text() if report else ann_file)
        if findings:
            print(summarize(findings))
        stops |= any(finding.stops for finding in findings)
        results.append({"ann_file": ann_file, "findings": [vars(one) for one in findings]})
    write_json(args.out, results)
    end = "a training would stop or silently lose something (lines with !)" if stops else "all well"
    print(f"{end}; every finding is in {args.out}.")
    sys.exit(int(stops))


if __name__ == "__main__":
    run_tool(check, parse_args())
