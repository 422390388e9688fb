"""Balanced group softmax (BAGS).

Categories of similar size compete with each other only: they are put into groups by their number of
training instances, and each group has a softmax of its own over its categories and an output
"others" (arXiv 2006.10408). A last group tells background from foreground. The loss is
the sum over the groups of the mean cross-entropy of the proposals chosen for the group: those of
its categories, and at most beta times as many others; for the background group, all.

At test time the score of a category is its probability within its group times that of foreground.

Glossary, and that of :mod:`mmdet_eql.losses.base`:
    G: number of groups of categories.
    cls_score: z, logits of shape (N, C + G + 2): the C categories in the order of the labels, the
        "others" of the G groups, foreground, background. The layout does not depend on the counts.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from mmdet.models.losses import accuracy
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.base import ClassificationLoss, check_number
from mmdet_eql.losses.class_statistics import CountAware
from mmdet_eql.utils.errors import UserError


@MODELS.register_module()
class BalancedGroupSoftmaxLoss(CountAware, ClassificationLoss):
    """Balanced group softmax for the box heads of mmdet.

    The draw of the others comes from torch's generator of the device of the logits. The mean is
    taken within each group over the proposals chosen for it, as the paper defines it, so that there
    is no other reduction and the head's ``avg_factor`` does not apply.

    Args:
        num_classes (int, optional): C. Taken from the box head by default.
        bins (Sequence[int]): Ascending limits of n_j between the G = len(bins) + 1 groups; a
            category with exactly that many instances belongs to the group above.
        beta (float): Number of other proposals per proposal of a group, at least 0.
        loss_weight (float): Factor on the loss.
        **kwargs: ``use_sigmoid``, which must be False, and ``reduction``, which must be ``"sum"``.

    Example:
        >>> loss = BalancedGroupSoftmaxLoss(num_classes=3)
        >>> loss.get_cls_channels(3)
        9
        >>> loss.set_class_counts(torch.tensor([5000, 10, 9]))
        >>> loss.groups()
        tensor([3, 1, 0])
    """

    reads_weight = True

    def __init__(
        self,
        num_classes: int | None = None,
        bins: Sequence[int] = (10, 100, 1000),
        beta: float = 8.0,
        loss_weight: float = 1.0,
        **kwargs,
    ) -> None:
        kwargs.setdefault("reduction", "sum")
        super().__init__(num_classes, loss_weight=loss_weight, **kwargs)
        if self.reduction != "sum":
            raise UserError(
                "loss_cls: BalancedGroupSoftmaxLoss takes the mean within each group, and its "
                f"reduction is not {self.reduction!r}; leave it out."
            )
        bins = tuple(bins)
        if list(bins) != sorted(set(bins)) or any(limit < 1 for limit in bins):
            raise UserError(
                f"loss_cls.bins is {bins}; give ascending numbers of instances, each at least 1."
            )
        check_number("beta", beta)
        self.bins = bins
        self.beta = beta
        self.num_groups = len(bins) + 1
        self.extra_logits = self.num_groups + 2

    def groups(self) -> Tensor:
        """Return the group of each category, int64 of shape (C,), in [0, G)."""
        counts = self.known_class_counts()
        return torch.bucketize(counts, counts.new_tensor(self.bins), right=True)

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Return the scores: probabilities of the categories and of background, (N, C + 1)."""
        self.check_logits(cls_score)
        *groups, last = self._split(cls_score)
        foreground = last[0].softmax(dim=1)
        scores = cls_score.new_zeros(len(cls_score), self.num_classes + 1)
        for logits, members in groups:
            within = logits.softmax(dim=1)[:, 1:] * foreground[:, :1]
            scores[:, members] = within.to(scores.dtype)
        scores[:, -1] = foreground[:, 1].to(scores.dtype)
        return scores

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return ``acc_objectness``, the percentage of rows whose last two outputs tell background
        from objects correctly, and ``acc_classes``, that of foreground rows whose highest score
        among the categories is their label."""
        is_background = labels == self.num_classes
        foreground = (~is_background).nonzero().squeeze(1)
        scores = self.get_activation(cls_score[foreground].detach())[:, :-1]
        return {
            "acc_objectness": accuracy(cls_score[:, -2:], is_background.long()),
            "acc_classes": accuracy(scores, labels[foreground]),
        }

    def choose_proposals(self, labels: Tensor) -> Tensor:
        """Return which proposals each group learns from, boolean of shape (N, G + 1): all of its
        categories and a random choice of beta times as many others; all for the background group,
        the last."""
        group_of_label = F.pad(self.groups(), (0, 1), value=-1)
        own = group_of_label[labels][:, None] == torch.arange(self.num_groups, device=labels.device)
        # The others of each group come first, in their order.
        order = own.sort(dim=0, stable=True).indices
        chosen = labels.new_ones(len(labels), self.num_groups + 1, dtype=torch.bool)
        for group, num_own in enumerate(own.sum(dim=0).tolist()):
            others = order[: len(labels) - num_own, group]
            num_others = int(num_own * self.beta)
            dropped = torch.randperm(len(others), device=labels.device)[num_others:]
            chosen[others[dropped], group] = False
        return chosen

    def row_losses(self, logits: Tensor, labels: Tensor, weight: Tensor | None) -> Tensor:
        """See the base class; ``weight`` enters the sums of each group, and the numbers that they
        are divided by."""
        weights = self.choose_proposals(labels).to(logits.dtype)
        if weight is not None:
            weights = weights * weight[:, None].to(logits.dtype)
        weights = weights / weights.sum(dim=0).clamp(min=1)
        losses = logits.new_zeros(len(logits))
        for group, (group_logits, members) in enumerate(self._split(logits)):
            # Position 0 is "others", or foreground in the background group.
            position = labels.new_zeros(self.num_classes + 1)
            position[members] = torch.arange(1, len(members) + 1, device=labels.device)
            entropy = F.cross_entropy(group_logits, position[labels], reduction="none")
            losses = losses + weights[:, group] * entropy
        return losses

    def reduce(self, losses: Tensor, weight=None, avg_factor=None, override=None) -> Tensor:
        """See the base class; the row losses are weighted and divided already."""
        return super().reduce(losses, override="none" if override == "none" else "sum")

    def _split(self, cls_score: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The logits of each group, "others" first, and the labels of the rest."""
        *members_of_groups, background = self._members_of_groups()
        for group, members in enumerate(members_of_groups):
            others = cls_score[:, self.num_classes + group, None]
            yield torch.cat([others, cls_score[:, members]], dim=1), members
        yield cls_score[:, -2:], background

    def _members_of_groups(self) -> list[Tensor]:
        """The labels of each group, and of the background group."""
        groups = self.groups()
        members = [(groups == group).nonzero().squeeze(1) for group in range(self.num_groups)]
        return [*members, groups.new_tensor([self.num_classes])]
