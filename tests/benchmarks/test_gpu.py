"""What only a GPU shows: python -m pytest -m gpu tests/benchmarks/test_gpu.py

With BENCHMARK_DEVICE=cpu they run without one, which checks the tests alone.
"""

import os

import pytest
import torch
import training
from mmcv.ops import batched_nms
from mmdet.registry import MODELS
from mmengine.optim import AmpOptimWrapper

import mmdet_eql  # noqa: F401
from mmdet_eql.engine import BFloat16OptimWrapper
from mmdet_eql.heads import multiclass_nms

DEVICE = os.environ.get("BENCHMARK_DEVICE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no GPU"
    ),
]
C = 1203


@pytest.mark.parametrize(
    "kind", ["EqualizationLoss", "EqualizationLossV2", "EqualizedFocalLoss", "SigmoidFocalLoss"]
)
def test_a_loss_and_its_gradient_are_those_of_the_cpu(kind):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(64, C, generator=generator)
    labels = torch.randint(C + 1, (64,), generator=generator)
    results = []
    for device in ("cpu", DEVICE):
        loss = MODELS.build(dict(type=kind, num_classes=C, use_sigmoid=True)).to(device)
        if hasattr(loss, "set_class_frequency"):
            loss.set_class_frequency(torch.linspace(0, 0.01, C, dtype=torch.float64))
        logits = values.to(device, copy=True).requires_grad_()
        value = loss(logits, labels.to(device))
        value.backward()
        results.append((value.detach().cpu(), logits.grad.cpu()))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("function", ["all categories", "each category"])
def test_nms_is_that_of_the_cpu(function):
    generator = torch.Generator().manual_seed(0)
    corners = 300 * torch.rand(200, 2, generator=generator)
    boxes = torch.cat([corners, corners + 60 * torch.rand(200, 2, generator=generator)], dim=1)
    scores = torch.rand(200, 9, generator=generator)
    options = dict(type="nms", iou_threshold=0.5)

    def detect(device: str) -> list[torch.Tensor]:
        at = [boxes.to(device), scores.to(device)]
        if function == "each category":
            found = multiclass_nms(*at, 0.5, options, 100)
        else:
            found = batched_nms(at[0], at[1][:, 0], torch.zeros(200).to(device), options)
        return [part.cpu() for part in found]

    assert len(detect("cpu")[0]) > 20
    for ours, expected in zip(detect(DEVICE), detect("cpu"), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_step_of_mixed_precision_is_finite(dtype):
    if (DEVICE, dtype) == ("cpu", "float16"):
        pytest.skip("float16 needs a GPU")
    model = training.make_model(training.EQL, num_classes=30, num_proposals=16).to(DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    if dtype == "float16":
        wrapper = AmpOptimWrapper(dtype=dtype, loss_scale="dynamic", optimizer=optimizer)
    else:
        wrapper = BFloat16OptimWrapper(optimizer=optimizer)
    losses = model.train_step(training.make_batch(30), wrapper)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
