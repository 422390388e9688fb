"""Loading images, and naming the one that is broken."""

import mmcv
from mmcv.transforms import LoadImageFromFile
from mmdet.registry import TRANSFORMS
from mmengine import fileio
from mmengine.registry import Registry

from mmdet_eql.utils.errors import UserError

#: MMDetection's ``DetInferencer`` looks for a step named ``LoadImageFromFile``, whatever the scope.
_SCOPED_TRANSFORMS = Registry("transform", parent=TRANSFORMS, scope="mmdet_eql")


@_SCOPED_TRANSFORMS.register_module(name="LoadImageFromFile")
@TRANSFORMS.register_module()
class LoadVerifiedImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that refuses a damaged image by name.

    OpenCV decodes the first half of a cut-off JPEG and paints the rest grey; training would go on
    with that. An image of another size than annotated has its boxes in the wrong places.

    Its other name is ``mmdet_eql.LoadImageFromFile``; pipelines that begin with it can be used by
    ``DetInferencer``, which puts a loader of its own there.

    Args:
        *args, **kwargs: As in mmcv's ``LoadImageFromFile``.

    Raises:
        UserError: If an image is missing, cut off, undecodable or of another size than annotated.
    """

    def transform(self, results: dict) -> dict | None:
        """Load the image of ``results['img_path']``.

        Args:
            results (dict): With ``img_path`` and, if annotated, ``height`` and ``width`` in pixels.

        Returns:
            dict | None: ``results`` with ``img`` (uint8 or float32, shape (H, W, 3)),
            ``img_shape`` and ``ori_shape``; None for an unreadable image with ``ignore_empty``.
        """
        try:
            image = self._load(results["img_path"])
        except UserError:
            if self.ignore_empty:
                return None
            raise
        shape = image.shape[:2]
        annotated = (results.get("height", shape[0]), results.get("width", shape[1]))
        if shape != annotated:
            raise UserError(
                f"{results['img_path']}: the image has {shape[1]}x{shape[0]} pixels, but its "
                f"annotation says {annotated[1]}x{annotated[0]}; replace the image or correct the "
                "annotation."
            )
        results["img"] = image.astype("float32") if self.to_float32 else image
        results["img_shape"] = shape
        results["ori_shape"] = shape
        return results

    def _load(self, path: str):
        try:
            content = fileio.get(path, backend_args=self.backend_args)
        except (OSError, ValueError) as error:
            # A name that no file can have is a ValueError: a null byte, half a Unicode character.
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise UserError(
                f"{path}: the image cannot be read ({reason}); complete the image folder or "
                "correct 'data_prefix' in the config."
            ) from None
        image = None
        if not _is_cut_off_jpeg(content):
            try:
                image = mmcv.imfrombytes(
                    content, flag=self.color_type, backend=self.imdecode_backend
                )
            except Exception:  # each decoding backend has its own errors; all mean the same here
                image = None
        if image is None:
            raise UserError(
                f"{path}: the image is corrupted ({len(content):,} bytes that cannot be decoded "
                "whole); download or copy it again."
            )
        return image


def _is_cut_off_jpeg(content: bytes) -> bool:
    # Inside compressed data 0xFF is always escaped, so an end marker after the last start-of-scan
    # marker is the image's own; bytes after it are allowed.
    return content.startswith(b"\xff\xd8") and content.rfind(b"\xff\xd9") < content.rfind(
        b"\xff\xda"
    )
