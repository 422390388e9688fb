"""HTC from training to one submission of augmented and plain results, by the tools a user runs."""

import json

import pytest
from mmengine.runner import Runner

from tests.conftest import TINY
from tests.evaluation.federated_sets import evaluate_files, judge
from tests.evaluation.test_on_minilvis import assert_same_figures
from tests.heads.test_detectors import make_config


@pytest.fixture(scope="module")
def trained(minilvis, tmp_path_factory):
    """The config file of an HTC of the tiny set, a checkpoint of it after a few steps, its
    results without augmentation, and the annotation file that both are tested on."""
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
    # A few images are enough for every way of merging.
    ann_file = work_dir / "val.json"
    data = json.loads((minilvis / "annotations" / "minilvis_val.json").read_text())
    data["images"] = data["images"][:8]
    ids = {image["id"] for image in data["images"]}
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] in ids]
    ann_file.write_text(json.dumps(data))
    cfg.test_dataloader.dataset.ann_file = cfg.test_evaluator.ann_file = str(ann_file)
    cfg.dump(str(work_dir / "htc.py"))
    cfg.test_evaluator.outfile_prefix = str(work_dir / "plain")
    runner = Runner.from_cfg(cfg)
    runner.train()
    runner.test()
    return work_dir / "htc.py", work_dir / "iter_4.pth", work_dir / "plain.segm.json", ann_file


def test_one_submission_of_augmented_and_plain_results(trained, call_tool, tmp_path):
    config, checkpoint, plain, ann_file = trained
    prefix = tmp_path / "augmented"
    call_tool(
        "test.py", config, checkpoint, "--tta", "--work-dir", tmp_path / "work_dir",
        "--cfg-options", f"test_evaluator.outfile_prefix={prefix}", check=True,
    )  # fmt: skip
    (path,) = (tmp_path / "work_dir").glob("*/*.json")
    values = json.loads(path.read_text())
    lvis = {key: value for key, value in values.items() if key.startswith("lvis/")}
    assert_same_figures(lvis, prefix, ann_file)

    augmented, merged = tmp_path / "augmented.segm.json", tmp_path / "merged.segm.json"
    call_tool(
        "misc/merge_results.py", augmented, plain, "--ann-file", ann_file, "-o", merged, check=True
    )
    sizes = [len(json.loads(path.read_text())) for path in (augmented, plain, merged)]
    assert max(sizes[:2]) <= sizes[2] < sum(sizes[:2])
    theirs = judge(ann_file, merged, "segm").results
    ours = evaluate_files(str(ann_file), str(merged), "segm").metrics()
    for name in ("AP", "AP50", "APr", "APc", "APf"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-9)
