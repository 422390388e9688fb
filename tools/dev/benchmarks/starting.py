"""Starting: the help of a tool, the imports, and a training of one iteration.

Each is a process of its own, in turns: tools/train.py beside MMDetection's, which its wheel
contains. The training is of the small Mask R-CNN of configs/minilvis on a few images of MiniLVIS,
with EQL, our dataset and our hooks beside softmax and the dataset and hooks of MMDetection.
"""

import sys
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from mmengine.config import Config
from side_by_side import CONFIGS, Comparison, Run, clocks, compare_runs, output_of

from mmdet_eql.minilvis import MiniLVISConfig, make_minilvis
from mmdet_eql.minilvis.conversion import write_as_coco
from mmdet_eql.minilvis.folder import read_minilvis

OUR_TOOL = Path(__file__).resolve().parents[2] / "train.py"
#: Other parts of what stock configs use are those of the config with EQL.
STOCK = dict(
    default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)),
    custom_hooks=[],
    custom_imports=None,
)
NO_VALIDATION = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)


def measure(quick: bool) -> list[Comparison]:
    """Compare what a user waits for."""
    stock_tool = Path(find_spec("mmdet").origin).parent / ".mim" / "tools" / "train.py"
    imports = ("import mmdet_eql", "from mmdet.utils import register_all_modules as r; r()")
    repeats = 1 if quick else 5
    with tempfile.TemporaryDirectory() as folder:
        write_configs(Path(folder))
        trainings = [
            [str(tool), f"{folder}/{name}.py", "--work-dir", f"{folder}/{name}"]
            for tool, name in ((OUR_TOOL, "ours"), (stock_tool, "stock"))
        ]
        rows = (
            ("tools/train.py --help", 1, [[str(t), "--help"] for t in (OUR_TOOL, stock_tool)]),
            ("import mmdet_eql", 0.95, [["-c", code] for code in imports]),
            ("a training of one iteration, Mask R-CNN R18, 4 x 160 px", 1, trainings),
        )
        comparisons = []
        # Quick, without the imports by themselves, which the training has, too.
        for description, target, (ours, theirs) in rows[::2] if quick else rows:
            works = {"ours": partial(run_python, ours), "mmdet": partial(run_python, theirs)}
            if not quick:  # fill Python's and the annotations' caches
                compare_runs("starting", description, works, repeats=1)
            comparisons += compare_runs("starting", description, works, {"mmdet": target}, repeats)
    return comparisons


def run_python(arguments: list[str]) -> Run:
    """Run the interpreter, and say what that took."""
    before = clocks()
    output_of([sys.executable, *arguments])
    return Run(*np.subtract(clocks(), before).tolist())


def write_configs(folder: Path) -> None:
    """Write ours.py and stock.py, which train one iteration, and their data."""
    config = MiniLVISConfig(num_train_images=200, num_val_images=200)
    make_minilvis(folder / "data", config, num_workers=1)
    write_as_coco(folder / "data", folder / "coco")
    for name, method in (("ours", "eql_"), ("stock", "")):
        cfg = Config.fromfile(CONFIGS / "minilvis" / f"mask-rcnn_r18_fpn_{method}1xb4_minilvis.py")
        cfg.train_cfg.update(max_iters=1, val_interval=2)
        cfg.merge_from_dict(NO_VALIDATION)
        dataset = cfg.train_dataloader.dataset
        if name == "ours":
            dataset.data_root = f"{folder}/data/"
        else:
            cfg.merge_from_dict(STOCK)
            dataset.update(type="CocoDataset", data_root=f"{folder}/coco/")
            dataset.update(ann_file="annotations/train.json", data_prefix=dict(img="train/"))
            categories = read_minilvis(folder / "data")["train"]["categories"]
            dataset.metainfo = dict(classes=[category["name"] for category in categories])
            dataset.pipeline[0].type = "LoadImageFromFile"
            dataset.pipeline[1].type = "LoadAnnotations"
        cfg.dump(folder / f"{name}.py")
