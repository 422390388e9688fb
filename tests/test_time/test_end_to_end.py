"""HTC from training to figures with test-time augmentation, by the tools a user runs."""

import json

import pytest
from mmengine.runner import Runner

from tests.conftest import TINY
from tests.evaluation.test_on_minilvis import assert_same_figures
from tests.roi_heads.test_detectors import make_config
from tests.test_tools import figures


@pytest.fixture(scope="module")
def trained(minilvis, tmp_path_factory):
    """The config file of an HTC of the tiny set, and a checkpoint of it after a few steps."""
    work_dir = tmp_path_factory.mktemp("htc")
    cfg = make_config("htc", "eql", minilvis)
    cfg.model.test_cfg.rcnn.max_per_img = 20
    scales = [
        dict(type="Resize", scale=(size, size), keep_ratio=True)
        for size in (TINY.image_size, TINY.image_size * 5 // 6)
    ]
    cfg.tta_pipeline[1].transforms[0] = scales
    cfg.train_cfg.val_interval = 1000
    cfg.work_dir = str(work_dir)
    cfg.dump(str(work_dir / "htc.py"))
    Runner.from_cfg(cfg).train()
    return work_dir / "htc.py", work_dir / "iter_4.pth"


def test_augmented_results_are_what_lvis_api_accepts(trained, run_tool, minilvis, tmp_path):
    config, checkpoint = trained
    prefix = tmp_path / "augmented"
    run_tool(
        "test.py", config, checkpoint, "--tta", "--work-dir", tmp_path / "work_dir",
        "--cfg-options", f"test_evaluator.outfile_prefix={prefix}", check=True,
    )  # fmt: skip
    ann_file = minilvis / "annotations" / "minilvis_val.json"
    assert_same_figures(figures(tmp_path), prefix, ann_file)
    masks = json.loads(prefix.with_name("augmented.segm.json").read_text())
    assert len(masks) > 24
