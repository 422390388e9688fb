"""Prove that this environment works: run MMCV's compiled operators and compare with known answers.

Usage: ``python tools/dev/env/check_env.py``. Takes no arguments; the exit status tells.
"""

import sys


def check_ops(device: str) -> None:
    """Run NMS and RoIAlign on a device; AssertionError if a result is not the known one."""
    import torch
    from mmcv.ops import nms, roi_align

    # The first two boxes overlap with an IoU of 81/100, so the lower score goes.
    boxes = [[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]]
    scores = torch.tensor([0.7, 0.9, 0.8], device=device)
    _, kept = nms(torch.tensor(boxes, device=device), scores, iou_threshold=0.5)
    if kept.tolist() != [1, 2]:
        raise AssertionError(f"NMS on {device} kept boxes {kept.tolist()} instead of [1, 2]")

    # Bilinear sampling of the plane 8y + x gives its value at the sampling points, which lie at
    # 0.5 and 2.5 in both directions after the half-pixel shift.
    plane = torch.arange(64.0, device=device).view(1, 1, 8, 8)
    roi = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]], device=device)
    pooled = roi_align(plane, roi, (2, 2), 1.0, 0, "avg", True).flatten().tolist()
    expected = [4.5, 6.5, 20.5, 22.5]
    if max(abs(got - want) for got, want in zip(pooled, expected, strict=True)) > 1e-4:
        raise AssertionError(f"RoIAlign on {device} gave {pooled} instead of {expected}")


def main() -> None:
    # Whatever of MMDetection a config can name is imported here, and with it all it needs.
    import cv2
    import lvis  # noqa: F401
    import mmcv
    import mmdet
    import mmdet.apis
    import mmengine
    import numpy
    import pycocotools.mask  # noqa: F401
    import torch
    from mmcv.ops import get_compiling_cuda_version

    check_ops("cpu")
    ops_cuda = get_compiling_cuda_version()
    if not torch.cuda.is_available():
        devices = "CPU"
    elif ops_cuda == "not available":
        devices = "CPU only: MMCV's operators are built without CUDA, so no training on the GPU"
    else:
        check_ops("cuda")
        devices = f"CPU and GPU (CUDA {ops_cuda})"
    print(f"Python {sys.version.split()[0]}, NumPy {numpy.__version__}, OpenCV {cv2.__version__},")
    print(f"PyTorch {torch.__version__}, MMEngine {mmengine.__version__},")
    print(f"MMCV {mmcv.__version__}, MMDetection {mmdet.__version__};")
    print(f"NMS and RoIAlign give the known answers on: {devices}")


if __name__ == "__main__":
    main()
