"""What box heads and plain classifiers ask of a loss on a softmax.

Glossary:
    N: number of proposals (RoIs) of a batch, or of images for a plain classifier.
    C: number of foreground categories.
    K: number of logits, C + 1 with a background output and C without.
    labels: int64 of shape (N,), in [0, C); C means background.
"""

from mmdet.models.losses import accuracy
from torch import Tensor

from mmdet_eql.losses.classifier import ClassifierLoss, foreground_accuracy


class SoftmaxClassifierLoss(ClassifierLoss):
    """Base of the losses on a softmax over the categories and background.

    Args:
        num_classes (int, optional): C. Taken from the box head by default.
        has_background (bool): Whether the last of C + 1 outputs is background, as box heads need
            it. A plain classifier has C outputs.
    """

    def __init__(self, num_classes: int | None = None, has_background: bool = True) -> None:
        super().__init__(num_classes)
        self.has_background = has_background

    def num_logits(self) -> int:
        """C + 1 with background, else C."""
        return self.num_classes + self.has_background

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Scores at test time.

        Args:
            cls_score (Tensor): Logits of shape (N, K).

        Returns:
            Tensor: Their softmax, shape (N, K).
        """
        self.check_logits(cls_score)
        return cls_score.softmax(dim=1)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Accuracy that is logged during training.

        Args:
            cls_score (Tensor): Logits of shape (N, K).
            labels (Tensor): Labels of shape (N,).

        Returns:
            dict[str, Tensor]: ``acc``, the percentage of all rows whose highest logit is that of
            their label, and ``acc_classes``, that of the foreground rows among the categories.
        """
        categories = cls_score[:, : self.num_classes]
        return {
            "acc": accuracy(cls_score, labels),
            "acc_classes": foreground_accuracy(categories, labels, self.num_classes),
        }
