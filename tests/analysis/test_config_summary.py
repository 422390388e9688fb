import pytest

from mmdet_eql.analysis.config_files import ConfigReader
from mmdet_eql.analysis.config_summary import summarize
from tests.conftest import CONFIGS

SUMMARIES = {
    "eql/htc_x101-64x4d_fpn_eql_8xb2-2x_lvis-v1.py": (
        "HybridTaskCascade, ResNeXt-101, semantic branch",
        "EqualizationLoss(lambda_=0.0011)",
        "",
        "lvis_v1",
        "24 epochs of 16 images per step",
    ),
    "minilvis/mask-rcnn_r18_fpn_eql-rfs_1xb4_minilvis.py": (
        "MaskRCNN, ResNet-18",
        "EqualizationLoss(lambda_=0.0022)",
        "RepeatFactorSampler",
        "minilvis",
        "1800 iterations of 4 images per step",
    ),
    "ablations/mask-rcnn_r50_fpn_eql-gompertz_16xb2-25e_lvis-v0.5.py": (
        "MaskRCNN, ResNet-50",
        "EqualizationLoss(GompertzDecayTail)",
        "",
        "lvis_v0.5",
        "25 epochs of 32 images per step",
    ),
    "eql/cascade-mask-rcnn_r50_fpn_eql-class-specific_8xb2-1x_lvis-v1.py": (
        "CascadeRCNN, ResNet-50, class-specific masks",
        "EqualizationLoss(lambda_=0.0011)",
        "",
        "lvis_v1",
        "12 epochs of 16 images per step",
    ),
    "eql/mask-rcnn_r101_c4_eql_16xb2-25e_lvis-v0.5.py": (
        "MaskRCNN, ResNet-101, C4",
        "EqualizationLoss(lambda_=0.00176)",
        "",
        "lvis_v0.5",
        "25 epochs of 32 images per step",
    ),
    "custom/faster-rcnn_r50_fpn_eql_8xb2-1x_custom.py": (
        "FasterRCNN, ResNet-50",
        "EqualizationLoss(ThresholdTail)",
        "",
        "custom",
        "12 epochs of 16 images per step",
    ),
    "minilvis/openimages/faster-rcnn_r18_fpn_eqlv2_1xb4_minilvis-openimages.py": (
        "FasterRCNN, ResNet-18",
        "EqualizationLossV2",
        "",
        "minilvis_openimages",
        "1800 iterations of 4 images per step",
    ),
    "classification/resnet32_focal_1xb128-200e_cifar100-lt.py": (
        "ImageClassifier, CIFARResNet-32",
        "SigmoidFocalLoss(gamma=2.0)",
        "",
        "LongTailedCIFAR100",
        "200 epochs of 128 images per step",
    ),
}


@pytest.mark.parametrize("name", SUMMARIES)
def test_a_summary_says_what_is_trained(name):
    assert summarize(ConfigReader().read(CONFIGS / name)) == SUMMARIES[name]


def test_the_list_has_a_line_for_each_experiment(run_tool):
    lines = run_tool("misc/list_configs.py", CONFIGS / "seql", check=True).stdout.splitlines()
    lines = [line for line in lines if " | " in line]
    names = [path.name for path in sorted((CONFIGS / "seql").glob("*.py"))]
    assert [line.split(" | ")[0] for line in lines] == names


def test_a_folder_without_configs_is_refused(run_tool, tmp_path):
    result = run_tool("misc/list_configs.py", tmp_path)
    assert result.returncode == 2
    assert "holds no configs" in result.stderr
