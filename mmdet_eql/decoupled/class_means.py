"""The nearest-class-mean classifier of cached features: nothing is trained.

The score of a category is the cosine between the features of a RoI and the mean features of the
category's RoIs in the training set (Kang et al., arXiv 1910.09217, section 4.2), times a
temperature and through a softmax. In a detector, background is one more class. For N, D and C see
:mod:`mmdet_eql.decoupled.feature_dataset`.
"""

import torch
from mmdet.models.layers import NormedLinear
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmdet_eql.decoupled.feature_cache import FeatureSplit
from mmdet_eql.engine.class_list_hook import bare_model
from mmdet_eql.utils.errors import UserError

#: Images whose features are in memory at once.
_IMAGES = 256


def class_means(features: FeatureSplit, stage: int, num_classes: int) -> Tensor:
    """Return the mean features of the RoIs of each category and of background, float64 of shape
    (C + 1, D); zero for a category without RoIs."""
    sums = torch.zeros(num_classes + 1, features.description.dim, dtype=torch.float64)
    counts = torch.zeros(num_classes + 1, dtype=torch.float64)
    for start in range(0, len(features), _IMAGES):
        rows = features.batch(range(start, min(start + _IMAGES, len(features))))
        labels = torch.from_numpy(rows[f"labels_{stage}"]).long()
        sums.index_add_(0, labels, torch.from_numpy(rows[f"features_{stage}"]).double())
        counts += labels.bincount(minlength=num_classes + 1)
    return sums / counts.clamp(min=1)[:, None]


@HOOKS.register_module()
class ClassMeanHook(Hook):
    """Set the weights of the classifiers to the class means of the training features.

    A UserError if a classifier is no ``NormedLinear`` for a softmax with background.
    """

    # After the weights of the detector are loaded.
    priority = "LOW"

    def before_train(self, runner: Runner) -> None:
        """Set the classifier of each stage."""
        features = runner.train_dataloader.dataset.features[0]
        for stage, head in enumerate(bare_model(runner).heads):
            classifier = head.fc_cls
            if not isinstance(classifier, NormedLinear) or head.custom_activation:
                raise UserError(
                    "decoupled.class_means: the scores are cosines and their softmax; set "
                    "cls_predictor_cfg=dict(type='NormedLinear', temperature=20) and "
                    "loss_cls=dict(_delete_=True, type='CrossEntropyLoss') in the box head."
                )
            with torch.no_grad():
                classifier.weight.copy_(class_means(features, stage, head.num_classes))
                classifier.bias.zero_()
