"""Federated loss: each batch teaches a few categories only.

In a federated dataset most categories are not annotated exhaustively, and a negative of a category
that no one looked for may be wrong. The loss is a sigmoid cross-entropy over the categories that
occur in the batch and some others, drawn with a probability proportional to a power of their
frequency (arXiv 2103.07461; used by detectron2's LVIS baselines). For N, C, f_j and labels see
:mod:`mmdet_eql.losses.base`.
"""

import torch
from mmdet.registry import MODELS
from torch import Tensor

from mmdet_eql.losses.base import SigmoidLoss, check_number, wanted_labels
from mmdet_eql.losses.class_statistics import FrequencyAware
from mmdet_eql.losses.focal_rows import cross_entropy_rows


@MODELS.register_module()
class FederatedLoss(FrequencyAware, SigmoidLoss):
    """Federated loss on C sigmoids without a background output.

    The draw comes from torch's generator of the device of the logits: ``torch.manual_seed`` makes
    it reproducible, and ranks draw for their own images.

    Args:
        num_chosen (int): Number of categories per call (of a dense or query head: per level or
            layer): those that occur, which are always chosen, and others up to this number.
            detectron2 counts background as one of them.
        freq_power (float): Others are drawn in proportion to f_j to this power, without
            replacement; a category that never occurs in training is not drawn, unless it is 0.
        image_level_labels (bool): Whether each sample is also taught the categories that its image
            is verified to contain or not to contain; with ``num_chosen=0`` these and those that
            occur in the batch alone. Needs a head that passes image-level labels on: see
            :mod:`mmdet_eql.heads.image_level_labels`. The authors leave this out.
        **kwargs: Those of :class:`~mmdet_eql.losses.base.SigmoidLoss`.

    Example:
        >>> loss = FederatedLoss(num_classes=3, num_chosen=2)
        >>> loss.set_class_frequency(torch.tensor([0.5, 0.2, 0.0]))
        >>> loss.choose_categories(torch.tensor([2, 3]))[2]  # it occurs
        tensor(True)
    """

    reads_quality = True

    def __init__(
        self,
        num_classes=None,
        num_chosen: int = 50,
        freq_power: float = 0.5,
        image_level_labels: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        check_number("num_chosen", num_chosen)
        check_number("freq_power", freq_power)
        self.num_chosen = num_chosen
        self.freq_power = freq_power
        self.image_level_labels = image_level_labels

    def choose_categories(self, labels: Tensor) -> Tensor:
        """Return which categories a batch with labels (N,) teaches, boolean of shape (C,)."""
        probability = self.known_class_frequency() ** self.freq_power
        occurs = probability.new_zeros(self.num_classes + 1, dtype=torch.bool)
        occurs = occurs.index_fill(0, labels, True)[: self.num_classes]
        # The greatest of these keys are what torch.multinomial() draws without replacement, which
        # would need the number of draws on the host.
        keys = probability / torch.empty_like(probability).exponential_()
        best = keys.masked_fill(occurs, 0).topk(min(self.num_chosen, self.num_classes))
        place = torch.arange(len(best.indices), device=keys.device)
        drawn = (place < self.num_chosen - occurs.sum()) & (best.values > 0)
        return occurs.scatter(0, best.indices, occurs[best.indices] | drawn)

    def row_losses(
        self,
        logits: Tensor,
        labels: Tensor,
        verified: Tensor | None = None,
        image: Tensor | None = None,
        quality: Tensor | None = None,
    ) -> Tensor:
        """See the base class; needs frequencies. For ``verified`` and ``image`` see
        :mod:`mmdet_eql.losses.equalization`."""
        verified = wanted_labels(self, verified)
        chosen = self.choose_categories(labels)

        def weights(rows: slice) -> Tensor:
            taught = chosen if verified is None else chosen | verified[image[rows]]
            return taught.to(logits.dtype)

        return cross_entropy_rows(logits, labels, weights, quality)
