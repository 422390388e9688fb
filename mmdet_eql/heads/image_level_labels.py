"""Image-level labels on their way from the ground truth to the loss of each sample.

``PackLVISInputs`` leaves the verified categories of an image in its ``gt_instances``. A dense or
query head here finds them there; a RoI head has them through the sampler, which adds them to its
sampling results. Both hand them over to each call of their loss, with the image of each sample:

    gt_instances.verified_labels -> [SamplingResult.verified_labels ->] verified (B, C), image (N,)

``verified`` says whether image b, of B, is known to contain, or not to contain, category j, of C
(EQL paper, section 4.2); ``image`` is the place of a sample's image in the batch.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator

import torch
from mmdet.models import dense_heads
from mmdet.models.roi_heads.bbox_heads import DIIHead, Shared2FCBBoxHead
from mmdet.models.task_modules.samplers import PseudoSampler, RandomSampler, SamplingResult
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_eql.utils.errors import UserError


class _PassesLabelsOn:
    """What the samplers share."""

    def sample(
        self, assign_result, pred_instances: InstanceData, gt_instances: InstanceData, **kwargs
    ) -> SamplingResult:
        """Sample as mmdet's; the result gets the attribute ``verified_labels``, and a ground truth
        without it is a UserError."""
        if "verified_labels" not in gt_instances.metainfo_keys():
            raise _no_labels(type(self).__name__)
        result = super().sample(assign_result, pred_instances, gt_instances, **kwargs)
        result.verified_labels = gt_instances.verified_labels
        return result


@TASK_UTILS.register_module()
class ImageLevelLabelSampler(_PassesLabelsOn, RandomSampler):
    """mmdet's ``RandomSampler`` that passes an image's verified categories on."""


@TASK_UTILS.register_module()
class ImageLevelPseudoSampler(_PassesLabelsOn, PseudoSampler):
    """mmdet's ``PseudoSampler``, of Sparse R-CNN, that passes them on."""


class ImageLevelLabelHeadMixin:
    """Makes a RoI head of mmdet give its loss the verified categories of each proposal.

    Inherited before the head. Used if ``loss_cls.image_level_labels`` is on.
    """

    passes_image_level_labels = True  #: For the check of :mod:`mmdet_eql.losses.head_contract`.

    def loss_and_target(self, *args, **kwargs) -> dict:
        """As the head's; a UserError if the sampler did not pass image-level labels on."""
        results = _argument(super().loss_and_target, "sampling_results", args, kwargs)
        sizes = torch.tensor([len(result.priors) for result in results])
        verified = verified_categories(self, results)
        with passing_labels(self, verified, lambda _: _images(sizes)):
            return super().loss_and_target(*args, **kwargs)


@MODELS.register_module()
class ImageLevelShared2FCBBoxHead(ImageLevelLabelHeadMixin, Shared2FCBBoxHead):
    """mmdet's ``Shared2FCBBoxHead`` with image-level labels."""


@MODELS.register_module()
class ImageLevelDIIHead(ImageLevelLabelHeadMixin, DIIHead):
    """mmdet's ``DIIHead``, of Sparse R-CNN, with image-level labels."""


class ImageLevelLabelDenseHeadMixin:
    """Makes a dense or query head of mmdet give its loss the verified categories of each sample.

    Inherited before the head. Used if ``loss_cls.image_level_labels`` is on.
    """

    passes_image_level_labels = True

    def loss_by_feat(self, *args, **kwargs) -> dict:
        """As the head's; a UserError if the ground truth has no image-level labels."""
        instances = _argument(super().loss_by_feat, "batch_gt_instances", args, kwargs)

        def image(num_samples: int) -> Tensor:
            return self.image_of_samples(num_samples, len(instances))

        with passing_labels(self, verified_categories(self, instances), image):
            return super().loss_by_feat(*args, **kwargs)

    def image_of_samples(self, num_samples: int, num_images: int) -> Tensor:
        """Return the image of each sample of a call of the loss, int64 of shape (N,): of a level or
        a layer, which have equally many of each image, one image after the other."""
        return _images(torch.tensor([num_samples // num_images] * num_images))


for _name in (
    *("RetinaHead", "ATSSHead", "GFLHead", "TOODHead", "RTMDetHead", "RTMDetSepBNHead"),
    *("RTMDetInsHead", "RTMDetInsSepBNHead"),
    *("ConditionalDETRHead", "DABDETRHead", "DeformableDETRHead", "DINOHead"),
):
    _bases = (ImageLevelLabelDenseHeadMixin, getattr(dense_heads, _name))
    _doc = f"mmdet's ``{_name}`` with image-level labels."
    _head = type(f"ImageLevel{_name}", _bases, {"__doc__": _doc, "__module__": __name__})
    globals()[_head.__name__] = MODELS.register_module(module=_head)


@MODELS.register_module()
class ImageLevelFCOSHead(ImageLevelLabelDenseHeadMixin, dense_heads.FCOSHead):
    """mmdet's ``FCOSHead``, which calls its loss for all levels together."""

    def get_targets(self, points: list[Tensor], batch_gt_instances: list[InstanceData]) -> tuple:
        """As ``FCOSHead``'s."""
        self._level_sizes = [len(level) for level in points]
        return super().get_targets(points, batch_gt_instances)

    def image_of_samples(self, num_samples: int, num_images: int) -> Tensor:
        """See the base class."""
        levels = self._level_sizes
        return torch.cat([_images(torch.tensor([size] * num_images)) for size in levels])


@MODELS.register_module()
class ImageLevelYOLOXHead(ImageLevelLabelDenseHeadMixin, dense_heads.YOLOXHead):
    """mmdet's ``YOLOXHead``, which calls its loss for the assigned points alone."""

    def loss_by_feat(self, *args, **kwargs) -> dict:
        """See the base class."""
        self._num_assigned = []
        return super().loss_by_feat(*args, **kwargs)

    def _get_targets_single(self, *args) -> tuple:
        targets = super()._get_targets_single(*args)
        self._num_assigned.append(targets[-1])
        return targets

    def image_of_samples(self, num_samples: int, num_images: int) -> Tensor:
        """See the base class."""
        return _images(torch.tensor(self._num_assigned))


def _losses_with_labels(head: nn.Module) -> list[nn.Module]:
    losses = [getattr(head, name, None) for name in ("loss_cls", "initial_loss_cls")]
    return [loss for loss in losses if getattr(loss, "image_level_labels", False)]


def verified_categories(
    head: nn.Module, images: list[InstanceData] | list[SamplingResult]
) -> Tensor | None:
    """Return which categories are verified in each image, boolean of shape (B, C), None if no loss
    of the head reads them; a UserError if an image has no ``verified_labels``."""
    if not _losses_with_labels(head):
        return None
    verified = torch.zeros(len(images), head.num_classes, dtype=torch.bool)
    for row, image in zip(verified, images, strict=True):
        if hasattr(image, "verified_labels"):
            row[image.verified_labels.cpu()] = True
        elif isinstance(image, SamplingResult):
            raise UserError(
                "loss_cls.image_level_labels is on, but the sampler passes no image-level labels; "
                "set train_cfg.rcnn.sampler.type to 'ImageLevelLabelSampler' (in a cascade, in "
                "each stage; in Sparse R-CNN 'ImageLevelPseudoSampler')."
            )
        else:
            raise _no_labels("loss_cls.image_level_labels")
    return verified


@contextlib.contextmanager
def passing_labels(
    head: nn.Module, verified: Tensor | None, image_of: Callable[[int], Tensor]
) -> Iterator[None]:
    """Add ``verified``, boolean (B, C), and ``image`` to each call of the losses of a head that
    read them; ``image_of`` gives ``image``, int64 (N,), for N samples."""

    def add(loss, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        device = args[0].device
        image = image_of(len(args[0])).to(device)
        return args, dict(kwargs, verified=verified.to(device), image=image)

    with contextlib.ExitStack() as hooks:
        for loss in _losses_with_labels(head) if verified is not None else ():
            # First of all hooks, so that those that look at a call see them too.
            hook = loss.register_forward_pre_hook(add, prepend=True, with_kwargs=True)
            hooks.enter_context(hook)
        yield


def _images(sizes: Tensor) -> Tensor:
    return torch.arange(len(sizes)).repeat_interleave(sizes)


def _argument(method: Callable, name: str, args: tuple, kwargs: dict):
    return inspect.signature(method).bind(*args, **kwargs).arguments[name]


def _no_labels(who: str) -> UserError:
    return UserError(
        f"{who}: the ground truth has no image-level labels; end the training pipeline with "
        "dict(type='PackLVISInputs')."
    )
