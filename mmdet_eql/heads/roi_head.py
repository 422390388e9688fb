"""What others read of mmdet's RoI heads: their stages, and the semantic features of HTC."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


def stages_of(part: Any) -> list:
    """Return the stages of a part of a RoI head, or of its config; one without a cascade."""
    return list(part) if isinstance(part, (list, tuple, nn.ModuleList)) else [part]


def semantic_features(roi_head: nn.Module, x: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return what the heads of HTC read besides feature maps, by the name of their argument."""
    if not getattr(roi_head, "with_semantic", False):
        return {}
    return dict(semantic_feat=roi_head.semantic_head(x)[1])
