"""Pipeline steps: loading checked images, and image-level labels on their way to the head.

``LVISFormatDataset`` gives the categories known to be present in an image (those annotated in it)
and known to be absent (``neg_category_ids``) as ``positive_labels`` and ``negative_labels``, lists
of labels. They stay true when an image is resized, flipped or cropped, but not when images are
mixed.
"""

import functools

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmdet.datasets.transforms import CopyPaste, PackDetInputs
from mmdet.registry import TRANSFORMS
from mmengine import fileio
from mmengine.registry import Registry

from mmdet_eql.datasets.image_file import decode_whole, size_hint
from mmdet_eql.utils.errors import UserError

IMAGE_LEVEL_KEYS = ("positive_labels", "negative_labels")
#: MMDetection's ``DetInferencer`` looks for a step named ``LoadImageFromFile``, whatever the scope.
_SCOPED_TRANSFORMS = Registry("transform", parent=TRANSFORMS, scope="mmdet_eql")


@_SCOPED_TRANSFORMS.register_module(name="LoadImageFromFile")
@TRANSFORMS.register_module()
class LoadVerifiedImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that refuses a damaged image by name.

    OpenCV decodes the first half of a cut-off JPEG and paints the rest grey; an image of another
    size than annotated has its boxes in the wrong places. Arguments are those of mmcv's.

    Its other name is ``mmdet_eql.LoadImageFromFile``; pipelines that begin with it can be used by
    ``DetInferencer``, which puts a loader of its own there.

    Raises:
        UserError: If an image is missing, cut off, undecodable or of another size than annotated.
    """

    def transform(self, results: dict) -> dict | None:
        """Load the image of ``img_path``, annotated with ``height`` and ``width`` in pixels or not.

        Returns:
            dict | None: ``results`` with ``img`` (uint8 or float32, shape (H, W, 3)),
            ``img_shape`` and ``ori_shape``; None for an unreadable image with ``ignore_empty``.
        """
        try:
            content = self._read(results["img_path"])
            image = self._decode(content, results["img_path"])
        except UserError:
            if self.ignore_empty:
                return None
            raise
        shape = image.shape[:2]
        annotated = (results.get("height", shape[0]), results.get("width", shape[1]))
        if shape != annotated:
            raise UserError(
                f"{results['img_path']}: the image has {shape[1]}x{shape[0]} pixels, but its "
                f"annotation says {annotated[1]}x{annotated[0]}; "
                f"{size_hint(content, shape, annotated)}."
            )
        results["img"] = image.astype("float32") if self.to_float32 else image
        results["img_shape"] = results["ori_shape"] = shape
        return results

    def _read(self, path: str) -> bytes:
        try:
            return fileio.get(path, backend_args=self.backend_args)
        except (OSError, ValueError) as error:
            # A name that no file can have is a ValueError: a null byte, half a Unicode character.
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise UserError(
                f"{path}: the image cannot be read ({reason}); complete the image folder or "
                "correct its path ('data_prefix' in a config, --images of a tool)."
            ) from None

    def _decode(self, content: bytes, path: str) -> np.ndarray:
        decode = functools.partial(
            mmcv.imfrombytes, flag=self.color_type, backend=self.imdecode_backend
        )
        image = decode_whole(content, decode)
        if image is None:
            raise UserError(
                f"{path}: the image is corrupted ({len(content):,} bytes that cannot be decoded "
                "whole); download or copy it again."
            )
        return image


@TRANSFORMS.register_module()
class PackLVISInputs(PackDetInputs):
    """mmdet's ``PackDetInputs`` that keeps the image-level labels.

    They become metainfo of the data sample (``positive_labels``, ``negative_labels``), and of its
    ``gt_instances`` as ``verified_labels``, the sorted union: int64 of shape (K,). Arguments are
    those of mmdet's.

    Raises:
        UserError: If the dataset gives no image-level labels, or a step mixed images without them.
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
        annotated = {*results.get("gt_bboxes_labels", np.empty(0)).tolist()}
        if not annotated <= {*results["positive_labels"]}:
            raise UserError(
                f"PackLVISInputs: {results.get('img_path')} has objects of categories that are not "
                "annotated in it, so the pipeline mixes images without their image-level labels; "
                "use type='RepeatFactorCopyPaste' in place of 'CopyPaste', and 'Mosaic' or 'MixUp' "
                "within 'MixImageLevelLabels' in place of theirs with a cache."
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
    """Run a transform that mixes whole images (Mosaic, MixUp) and mix their labels.

    A category is present in the mixture if it is in one of the images, and absent if it is
    verified absent from each of them; otherwise nothing is known.

    Args:
        transform (dict): Config of the transform; it takes its further images from
            ``results['mix_results']``, as under mmdet's ``MultiImageMixDataset``.

    Raises:
        UserError: If the transform is ``CopyPaste``, which takes objects, not images.

    Example:
        >>> dict(type="MixImageLevelLabels", transform=dict(type="Mosaic"))  # doctest: +SKIP
    """

    def __init__(self, transform: dict) -> None:
        self.inner = TRANSFORMS.build(transform)
        if isinstance(self.inner, CopyPaste):
            raise UserError(
                "MixImageLevelLabels: CopyPaste takes some objects of an image alone; use "
                "type='RepeatFactorCopyPaste' instead, which mixes the labels itself."
            )
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
