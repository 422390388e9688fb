"""The last layer: linear and cosine classifiers, and those of two-stage training.

They are for ``head.classifier`` of image classifiers and ``cls_predictor_cfg`` of box heads. Each
takes ``in_features``, D, and ``out_features``, C, and returns the logits z of shape (N, C) for
features x of N images or RoIs, shape (N, D); w_j and b_j are weights and bias of class j. Each can
load the weights of a :class:`LinearClassifier`.
"""

import math

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import normal_init
from torch import Tensor, nn

from mmdet_eql.utils.errors import UserError


@MODELS.register_module()
class LinearClassifier(nn.Linear):
    """Linear classifier: z_j = w_j x + b_j."""

    def init_weights(self) -> None:
        """Draw new weights, normal with standard deviation 0.01, and set the bias to 0."""
        normal_init(self, std=0.01)


@MODELS.register_module()
class CosineClassifier(nn.Linear):
    """Cosine classifier: z_j = s cos(w_j, x); a UserError if the scale s is not above 0."""

    def __init__(self, in_features: int, out_features: int, scale: float = 16.0) -> None:
        if not 0 < scale < math.inf:
            raise UserError(f"classifier.scale is {scale}; it must be above 0.")
        super().__init__(in_features, out_features, bias=False)
        self.scale = scale

    def init_weights(self) -> None:
        """Draw new weights, normal; only their directions count."""
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (N, C), for features of shape (N, D)."""
        return F.linear(self.scale * F.normalize(x), F.normalize(self.weight))


@MODELS.register_module()
class TauNormalizedClassifier(LinearClassifier):
    """Tau-normalisation (Kang et al., arXiv 1910.09217, section 4.2): z_j = w_j x / |w_j|^tau.

    In evaluation only; in training it is a linear classifier. Test it with the checkpoint of one.
    For image classifiers: a detector's background needs its bias (``tools/calibrate.py``).
    A tau of 0 changes no weight, 1 makes all norms equal; a UserError if it is not finite.
    """

    def __init__(self, in_features: int, out_features: int, tau: float = 1.0) -> None:
        if not math.isfinite(tau):
            raise UserError(f"classifier.tau is {tau}; it must be a finite number.")
        super().__init__(in_features, out_features)
        self.tau = tau

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (N, C), for features of shape (N, D)."""
        if self.training:
            return super().forward(x)
        norm = self.weight.norm(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        return F.linear(x, self.weight / norm**self.tau)


@MODELS.register_module()
class ScaledClassifier(LinearClassifier):
    """Learnable weight scaling (LWS; Kang et al., section 4.2): z_j = f_j (w_j x + b_j).

    Only f_j is trained; weights and biases are those of the first stage.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.class_scale = nn.Parameter(torch.ones(out_features))
        self.weight.requires_grad_(False)
        self.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (N, C), for features of shape (N, D)."""
        return self.class_scale * super().forward(x)
