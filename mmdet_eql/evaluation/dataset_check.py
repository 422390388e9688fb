"""Whether the annotation file of an evaluator belongs to the data set that a model is tested on."""

import os.path as osp
from typing import Any

from mmdet_eql.annotations import AnnotationColumns
from mmdet_eql.utils.errors import UserError


def check_images_of_dataset(dataset: Any, columns: AnnotationColumns, ann_file: str) -> None:
    """Compare the images of a data set with those of the evaluator's annotation file.

    Ids alone do not tell: many files number their images from 1.

    Args:
        dataset: A data set of MMDetection, or a wrapper around one. Others are not compared.
        columns (AnnotationColumns): The evaluator's annotation file.
        ann_file (str): Its path.

    Raises:
        UserError: If an image is not in the file, or has another file name or size there.
    """
    while hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    theirs = getattr(dataset, "ann_file", None)
    if not hasattr(dataset, "get_data_info"):
        return
    if isinstance(theirs, str) and osp.realpath(theirs) == osp.realpath(ann_file):
        return
    position = {image: index for index, image in enumerate(columns.image_id.tolist())}
    folder = (getattr(dataset, "data_prefix", None) or {}).get("img")
    hint = "give the evaluator the 'ann_file' of the dataset"
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        if not {"img_id", "img_path", "height", "width"} <= info.keys():
            return
        at = position.get(info["img_id"])
        if at is None:
            raise UserError(
                f"{ann_file}: has no image {info['img_id']}, which {theirs or 'the dataset'} has; "
                f"{hint}."
            )
        name = osp.basename(columns.path(at, folder))
        size = tuple(columns.image_size[at].tolist())
        if (osp.basename(info["img_path"]), (info["height"], info["width"])) != (name, size):
            raise UserError(
                f"{ann_file}: image {info['img_id']} is {name} with {size[1]}x{size[0]} pixels, "
                f"but {osp.basename(info['img_path'])} with {info['width']}x{info['height']} in "
                f"{theirs or 'the dataset'}; {hint}."
            )
