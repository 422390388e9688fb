"""From the loss of each proposal to the number that is back-propagated."""

from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor

from mmdet_eql.utils.errors import UserError


def check_reduction(reduction: str) -> str:
    """Refuse a ``reduction`` that does not exist.

    Returns:
        str: The reduction.

    Raises:
        UserError: If it is not ``"none"``, ``"mean"`` or ``"sum"``.
    """
    if reduction not in ("none", "mean", "sum"):
        raise UserError(f"loss_cls.reduction is {reduction!r}; choose 'none', 'mean' or 'sum'.")
    return reduction


def reduce_rows(
    losses: Tensor,
    label_weights: Tensor | None,
    reduction: str,
    avg_factor: float | None = None,
) -> Tensor:
    """Weigh and reduce the losses of the proposals.

    Args:
        losses (Tensor): Loss of each proposal, shape (N,).
        label_weights (Tensor, optional): Weight of each proposal, shape (N,).
        reduction (str): ``"none"``, ``"mean"`` or ``"sum"``.
        avg_factor (float, optional): What the sum is divided by under ``"mean"``; N by default.

    Returns:
        Tensor: A scalar, or shape (N,) under ``"none"``. 0 for no proposals.
    """
    if len(losses) == 0 and reduction == "mean" and avg_factor is None:
        # The mean over no proposals is NaN; their sum is 0 and keeps the graph.
        reduction = "sum"
    return weight_reduce_loss(losses, label_weights, reduction, avg_factor)
