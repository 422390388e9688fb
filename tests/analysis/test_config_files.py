from mmengine.config import Config

from mmdet_eql.analysis.config_files import ConfigReader, find_experiments
from tests.conftest import CONFIGS


def test_experiments_are_found(tmp_path):
    for name in ("b/two.py", "a/one.py", "_base_/part.py", "a/_base_/part.py", "a/readme.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_experiments(tmp_path) == [tmp_path / "a/one.py", tmp_path / "b/two.py"]


def test_configs_are_read_as_mmengine_reads_them():
    """Those that change their bases' lists in place and take parts out of them among others."""
    reader = ConfigReader()
    paths = [
        *(CONFIGS / "eql").glob("htc_*_lvis-v0.5.py"),
        *(CONFIGS / "eqlv2").glob("*_lvis-v1.py"),
        *(CONFIGS / "minilvis").glob("cascade-*_eql_*.py"),
    ]
    assert len(paths) > 5
    for path in (*paths, *paths):
        assert reader.read(path).to_dict() == Config.fromfile(path).to_dict()


def test_a_changed_config_leaves_the_next_one_alone():
    reader = ConfigReader()
    path = CONFIGS / "eql" / "mask-rcnn_r50_fpn_eql_8xb2-1x_lvis-v1.py"
    reader.read(path).train_pipeline.clear()
    assert reader.read(path).to_dict() == Config.fromfile(path).to_dict()
