"""Image-level labels on their way through the pipeline.

Each image of LVIS says which categories are known to be present (those annotated in it) and known
to be absent (``neg_category_ids``); about all others it says nothing. ``LVISFormatDataset`` gives
them as ``positive_labels`` and ``negative_labels``, lists of labels. Resizing, flipping and
cropping leave them true: what is cut away is known to be gone. Mixing images does not.
"""

import torch
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import PackDetInputs
from mmdet.registry import TRANSFORMS

from mmdet_eql.utils.errors import UserError

IMAGE_LEVEL_KEYS = ("positive_labels", "negative_labels")


@TRANSFORMS.register_module()
class PackLVISInputs(PackDetInputs):
    """mmdet's ``PackDetInputs`` that keeps the image-level labels.

    They become metainfo of the data sample (``positive_labels``, ``negative_labels``), and of its
    ``gt_instances`` as ``verified_labels``, the sorted union: int64 of shape (K,).

    Args:
        *args, **kwargs: As in mmdet's ``PackDetInputs``.

    Raises:
        UserError: If the dataset gives no image-level labels.
    """

    def transform(self, results: dict) -> dict:
        """Pack; see the class docstring."""
        missing = [key for key in IMAGE_LEVEL_KEYS if key not in results]
        if missing:
            raise UserError(
                f"PackLVISInputs: the dataset gives no '{missing[0]}'; use "
                "type='LVISFormatDataset', or 'PackDetInputs' where image-level labels are not "
                "needed."
            )
        packed = super().transform(results)
        labels = {key: sorted(results[key]) for key in IMAGE_LEVEL_KEYS}
        packed["data_samples"].set_metainfo(labels)
        verified = sorted(set().union(*labels.values()))
        packed["data_samples"].gt_instances.set_metainfo(
            {"verified_labels": torch.tensor(verified, dtype=torch.int64)}
        )
        return packed


@TRANSFORMS.register_module()
class MixImageLevelLabels(BaseTransform):
    """Run a transform that mixes images (Mosaic, MixUp, CopyPaste) and mix their labels.

    A category is present in the mixture if it is in one of the images, and absent if it is
    verified absent from each of them; otherwise nothing is known.

    Args:
        transform (dict): Config of the transform; it takes its further images from
            ``results['mix_results']``, as under mmdet's ``MultiImageMixDataset``.

    Example:
        >>> dict(type="MixImageLevelLabels", transform=dict(type="Mosaic"))  # doctest: +SKIP
    """

    def __init__(self, transform: dict) -> None:
        self.inner = TRANSFORMS.build(transform)
        # MultiImageMixDataset asks the transform which further images it wants.
        if hasattr(self.inner, "get_indexes"):
            self.get_indexes = self.inner.get_indexes

    def transform(self, results: dict) -> dict | None:
        """Mix the images of ``results`` and ``results['mix_results']``, and their labels."""
        images = [results, *results.get("mix_results", [])]
        positive = set().union(*(image["positive_labels"] for image in images))
        negative = set(results["negative_labels"]).intersection(
            *(image["negative_labels"] for image in images)
        )
        results = self.inner(results)
        if results is not None:
            results["positive_labels"] = sorted(positive)
            results["negative_labels"] = sorted(negative)
        return results
