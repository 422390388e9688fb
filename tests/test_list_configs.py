from tests.conftest import CONFIGS

LINES = {
    "eql/htc_x101-64x4d_fpn_eql_8xb2-1x_lvis-v1.py": (
        "HybridTaskCascade, ResNeXt-101, semantic branch",
        "EqualizationLoss(lambda_=0.0011)",
        "lvis_v1",
        "12 epochs of 16 images per step",
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
        "lvis_v0.5",
        "25 epochs of 32 images per step",
    ),
    "eql/mask-rcnn_r101_c4_eql_16xb2-25e_lvis-v0.5.py": (
        "MaskRCNN, ResNet-101, C4",
        "EqualizationLoss(lambda_=0.00176)",
        "lvis_v0.5",
        "25 epochs of 32 images per step",
    ),
    "efl/atss_r101_fpn_efl-rfs_ms-8xb2-2x_lvis-v1.py": (
        "ATSS, ResNet-101",
        "EqualizedFocalLoss",
        "RepeatFactorSampler",
        "lvis_v1",
        "24 epochs of 16 images per step",
    ),
    "openimages/faster-rcnn_r50_fpn_eqlv2_32xb2-1x_openimages-challenge2019.py": (
        "FasterRCNN, ResNet-50",
        "EqualizationLossV2",
        "OpenImages",
        "12 epochs of 64 images per step",
    ),
    "classification/resnet32_focal_1xb128-200e_cifar100-lt.py": (
        "ImageClassifier, CIFARResNet-32",
        "SigmoidFocalLoss(gamma=2.0)",
        "LongTailedCIFAR100",
        "200 epochs of 128 images per step",
    ),
}


def test_a_line_says_what_is_trained(call_tool):
    paths = [CONFIGS / name for name in LINES]
    output = call_tool("misc/list_configs.py", *paths, CONFIGS / "custom", check=True).stdout
    lines = [line for line in output.splitlines() if " | " in line]
    names = [*LINES, *(f"custom/{path.name}" for path in sorted((CONFIGS / "custom").glob("*.py")))]
    assert [line.split(" | ")[0] for line in lines] == names
    for line, name in zip(lines, LINES, strict=False):
        assert tuple(line.split(" | ")[1:]) == LINES[name]


def test_a_folder_without_configs_is_refused(call_tool, tmp_path):
    result = call_tool("misc/list_configs.py", tmp_path)
    assert result.returncode == 2
    assert "holds no configs" in result.stderr
