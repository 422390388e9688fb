"""Copy-paste augmentation for long-tailed data: of rare objects more often, with true labels.

Copy-paste (arXiv 2012.07177) pastes some objects of a source image into another one, the
destination. Here both follow repeat factor sampling, and what is known of the mixture is what its
pixels show:

    present          the categories annotated in the mixture, and those known to be in the
                     destination, unless the pasted objects cover all of their objects
    verified absent  those that are so in both images, since the outline of a pasted object also
                     takes along what lies in it; in the destination, if nothing was pasted

A category of the source of which no object was pasted is not present. A pasted one is, though the
destination may have unannotated objects of it, as images have of the categories in
``not_exhaustive_category_ids``.
"""

import numpy as np
from mmdet.datasets.transforms import CopyPaste
from mmdet.registry import TRANSFORMS

from mmdet_eql.annotations.instance_labels import instance_labels_of
from mmdet_eql.datasets.samplers.repeat_factor import category_repeat_factors, image_repeat_factors
from mmdet_eql.frequency import class_frequency_of


@TRANSFORMS.register_module()
class RepeatFactorCopyPaste(CopyPaste):
    """mmdet's ``CopyPaste`` that draws source images by repeat factors and mixes image labels.

    Used in the pipeline of mmdet's ``MultiImageMixDataset``. Source image i is drawn with a
    probability in proportion to r(i), its repeat factor, as ``RepeatFactorSampler`` draws the
    destinations. Class frequencies stay those of the annotation file.

    The image keeps its type (mmdet's becomes int64), semantic maps are pasted too.

    Args:
        repeat_threshold (float): Of the source images, usually that of the sampler; 0 draws all of
            them equally often, as mmdet does.
        **kwargs: Those of mmdet's ``CopyPaste``.

    Raises:
        UserError: If ``repeat_threshold`` is invalid, or the dataset does not count its categories.
    """

    def __init__(self, repeat_threshold: float = 0.0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.repeat_threshold = repeat_threshold
        self._cumulative: np.ndarray | None = None

    def get_indexes(self, dataset) -> int:
        """Draw a source image of the dataset that ``MultiImageMixDataset`` wraps."""
        if self._cumulative is None:
            of_categories = category_repeat_factors(
                class_frequency_of(dataset), self.repeat_threshold
            )
            factors = image_repeat_factors(instance_labels_of(dataset), of_categories)
            self._cumulative = np.cumsum(factors)
        chosen = np.random.random() * self._cumulative[-1]
        return int(np.searchsorted(self._cumulative, chosen))

    def transform(self, results: dict) -> dict:
        """Paste objects of ``results['mix_results'][0]``, and mix the image-level labels of the
        two images where they have some."""
        image_type, before = results["img"].dtype, set(results["gt_bboxes_labels"].tolist())
        results = super().transform(results)
        (source,) = results["mix_results"]  # what is left of it was pasted
        if not len(source["gt_bboxes_labels"]):
            return results
        results["img"] = results["img"].astype(image_type)
        if "gt_seg_map" in results:
            pasted = source["gt_masks"].masks.any(axis=0)
            results["gt_seg_map"][pasted] = source["gt_seg_map"][pasted]
        if "positive_labels" in results:
            after = set(results["gt_bboxes_labels"].tolist())
            covered = before - after
            results["positive_labels"] = sorted({*results["positive_labels"]} - covered | after)
            absent = {*results["negative_labels"]} & {*source["negative_labels"]}
            results["negative_labels"] = sorted(absent - after)
        return results
