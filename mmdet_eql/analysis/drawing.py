"""Predictions drawn: of a model in any image, and of several beside the ground truth."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mmcv
import numpy as np
import pycocotools.mask as mask_utils
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from mmdet.registry import DATASETS, MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from torch import nn

from mmdet_eql.frequency import GROUP_COLOURS, GROUP_NAMES, ClassFrequency
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.figure_file import save_figure
from mmdet_eql.utils.rle import to_bitmaps

#: Of a category whose group is not known.
_OTHER_COLOUR = "#BBBBBB"
#: Width of a panel in inches at 100 dots each; images are magnified to it.
_PANEL = 5.0


@dataclass(frozen=True)
class Instances:
    """Objects of an image, annotated or predicted.

    Args:
        boxes (np.ndarray): x1, y1, x2, y2 in pixels, shape (N, 4).
        labels (np.ndarray): Labels, shape (N,).
        masks (np.ndarray, optional): bool of shape (N, H, W).
        scores (np.ndarray, optional): Shape (N,); None for annotations.
    """

    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None
    scores: np.ndarray | None = None

    def best(self, number: int, score_thr: float) -> "Instances":
        """The ``number`` best ones with a score of at least ``score_thr``, the best first."""
        order = np.argsort(-self.scores, kind="stable")[:number]
        order = order[self.scores[order] >= score_thr]
        masks = None if self.masks is None else self.masks[order]
        return Instances(self.boxes[order], self.labels[order], masks, self.scores[order])


def draw_predictions(
    models: Mapping[str, tuple[Config, str | os.PathLike]],
    class_frequency: ClassFrequency,
    out_dir: str | os.PathLike,
    num_images: int = 6,
    score_thr: float = 0.3,
    max_instances: int = 15,
) -> list[Path]:
    """Draw what models find in a few validation images, beside the ground truth.

    The images are those that :func:`choose_images` takes from the ``val_dataloader`` of the first
    config, whatever the models make of them.

    Args:
        models (Mapping[str, tuple[Config, str]]): By name, the config and the checkpoint of models
            of the same classes.
        class_frequency (ClassFrequency): Occurrences in the training set, for the colours.
        out_dir (str | os.PathLike): Folder for one PNG per image, named after its file.
        num_images (int): Number of images.
        score_thr (float): Least score of the predictions that are drawn.
        max_instances (int): Greatest number of predictions that are drawn in an image.

    Returns:
        list[Path]: The PNG files.

    Raises:
        UserError: If a checkpoint cannot be used, or a file not be written.
    """
    dataset = _validation_set(next(iter(models.values()))[0])
    detectors = {name: load_detector(*source) for name, source in models.items()}
    group_of = dict(zip(class_frequency.class_names, class_frequency.group.tolist(), strict=True))
    names = dataset.metainfo["classes"]
    groups = [group_of.get(name, "c") for name in names]

    paths = []
    for index in choose_images(dataset, groups, num_images):
        info = dataset.get_data_info(index)
        panels = {"annotated": annotated_instances(info)}
        for name, detector in detectors.items():
            found = predict(detector, dataset, index)
            panels[f"{name}, score ≥ {score_thr:g}"] = found.best(max_instances, score_thr)
        image = mmcv.imread(info["img_path"], channel_order="rgb")
        path = Path(out_dir) / f"{Path(info['img_path']).stem}.png"
        draw_panels(image, panels, names, groups, path)
        paths.append(path)
    return paths


def choose_images(dataset: BaseDataset, groups: Sequence[str], num_images: int) -> list[int]:
    """Choose images with annotations of many kinds.

    Images with rare, common and frequent categories come first, then those with more annotated
    categories, then the order of the dataset. What models predict plays no part.

    Args:
        dataset (BaseDataset): A dataset with ``instances`` in its data infos.
        groups (Sequence[str]): Frequency group of each label.
        num_images (int): Number of images; fewer are returned if there are not as many.

    Returns:
        list[int]: Indices into the dataset.
    """

    def rank(index: int) -> tuple:
        instances = dataset.get_data_info(index)["instances"]
        labels = {instance["bbox_label"] for instance in instances}
        return -len({groups[label] for label in labels}), -len(labels), index

    return sorted(range(len(dataset)), key=rank)[:num_images]


def load_detector(config: Config, checkpoint: str | os.PathLike) -> nn.Module:
    """Build a model and load its weights, onto the GPU if there is one.

    As mmdet's ``init_detector``, but weights that do not fit are refused.

    Args:
        config (Config): Config of the model.
        checkpoint (str | os.PathLike): Its checkpoint.

    Returns:
        nn.Module: The detector in evaluation mode, with ``dataset_meta`` (from the checkpoint) and
        ``cfg``.

    Raises:
        UserError: If the checkpoint cannot be read or is of another model.
    """
    init_default_scope(config.get("default_scope", "mmdet"))
    detector = MODELS.build(config.model)
    try:
        loaded = load_checkpoint(
            detector, str(checkpoint), map_location="cpu", strict=True, logger="silent"
        )
    except RuntimeError as error:
        problem = str(error).strip().splitlines()
        raise UserError(
            f"{checkpoint}: does not fit the model of its config ({problem[-1].strip()}); give the "
            "config that it was trained with."
        ) from None
    detector.dataset_meta = loaded.get("meta", {}).get("dataset_meta", {})
    detector.cfg = config
    return detector.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def predict(detector: nn.Module, dataset: BaseDataset, index: int) -> Instances:
    """Run a detector on an image of a dataset.

    Args:
        detector (nn.Module): What :func:`load_detector` returns.
        dataset (BaseDataset): A dataset in test mode.
        index (int): Index of the image.

    Returns:
        Instances: All detections, in pixels of the original image.
    """
    with torch.no_grad():
        sample = detector.test_step(pseudo_collate([dataset[index]]))[0]
    return predicted_instances(sample)


def predicted_instances(sample: DetDataSample) -> Instances:
    """What a detector found in an image.

    Args:
        sample (DetDataSample): With ``pred_instances``, whose masks are a tensor or RLE.

    Returns:
        Instances: All detections, in pixels of the original image.
    """
    found = sample.pred_instances.cpu()
    masks = None
    if "masks" in found:
        masks = found.masks
        if isinstance(masks, torch.Tensor):
            masks = masks.numpy().astype(bool)
        else:
            masks = to_bitmaps(masks, sample.ori_shape[:2])
    return Instances(found.bboxes.numpy(), found.labels.numpy(), masks, found.scores.numpy())


def annotated_instances(info: dict) -> Instances:
    """Objects that are annotated in an image.

    Args:
        info (dict): The image's data info, with ``instances``, ``height`` and ``width``.

    Returns:
        Instances: Without scores.
    """
    instances, size = info["instances"], (info["height"], info["width"])
    masks = [_annotated_mask(instance.get("mask"), size) for instance in instances]
    return Instances(
        boxes=np.array([instance["bbox"] for instance in instances]).reshape(-1, 4),
        labels=np.array([instance["bbox_label"] for instance in instances], dtype=np.int64),
        masks=np.stack(masks) if masks else None,
    )


def _annotated_mask(mask: list | dict | None, size: tuple[int, int]) -> np.ndarray:
    """Decode polygons, or a mask in either kind of RLE."""
    if not mask:
        return np.zeros(size, dtype=bool)
    if isinstance(mask, list) or isinstance(mask["counts"], list):
        mask = mask_utils.frPyObjects(mask, *size)
    if isinstance(mask, list):
        mask = mask_utils.merge(mask)
    return mask_utils.decode(mask).astype(bool)


def _validation_set(config: Config) -> BaseDataset:
    init_default_scope(config.get("default_scope", "mmdet"))
    return DATASETS.build(config.val_dataloader.dataset)


def draw_panels(
    image: np.ndarray,
    panels: Mapping[str, Instances],
    names: Sequence[str],
    groups: Sequence[str],
    path: str | os.PathLike,
) -> None:
    """Draw objects into copies of an image, side by side in one PNG, coloured by frequency group.

    Args:
        image (np.ndarray): RGB, uint8 of shape (H, W, 3).
        panels (Mapping[str, Instances]): By their titles, the objects of each copy.
        names (Sequence[str]): Name of each label.
        groups (Sequence[str]): Frequency group of each label; ``""`` if it is not known.
        path (str | os.PathLike): PNG file to write.

    Raises:
        UserError: If the file cannot be written.
    """
    height, width = image.shape[:2]
    figure = Figure(
        figsize=(_PANEL * len(panels), _PANEL * height / width + 0.7), layout="constrained", dpi=100
    )
    FigureCanvasAgg(figure)
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, instances) in zip(row, panels.items(), strict=True):
        axes.imshow(image, interpolation="lanczos")
        axes.set_title(f"{title} ({len(instances.labels)})", fontsize=11)
        axes.set_axis_off()
        axes.autoscale(False)
        _draw_instances(axes, instances, names, groups)
    handles = [
        Line2D([], [], color=colour, linewidth=4, label=f"{GROUP_NAMES[group]} category")
        for group, colour in GROUP_COLOURS.items()
        if group in groups
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
        handlelength=1.2,
        columnspacing=1.2,
    )
    save_figure(figure, path)


def _draw_instances(
    axes: Axes, instances: Instances, names: Sequence[str], groups: Sequence[str]
) -> None:
    # The best are drawn last, over the others, and labels over all masks.
    for index in reversed(range(len(instances.labels))):
        label = int(instances.labels[index])
        colour = GROUP_COLOURS.get(groups[label], _OTHER_COLOUR)
        if instances.masks is not None:
            _draw_mask(axes, instances.masks[index], colour)
        x1, y1, x2, y2 = instances.boxes[index]
        axes.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, ec=colour))
        score = "" if instances.scores is None else f" {instances.scores[index]:.2f}"
        # Above the box and to its right, if there is room in the picture.
        above = y1 > 0.05 * axes.get_ylim()[0]
        right = x1 < 0.7 * axes.get_xlim()[1]
        axes.text(
            x1 if right else x2,
            y1,
            names[label] + score,
            fontsize=7,
            va="bottom" if above else "top",
            ha="left" if right else "right",
            clip_on=True,
            zorder=4,
            bbox={"facecolor": colour, "alpha": 0.7, "pad": 1, "linewidth": 0},
        )


def _draw_mask(axes: Axes, mask: np.ndarray, colour: str) -> None:
    if not mask.any():
        return
    overlay = np.zeros((*mask.shape, 4))
    # Faint, so that the object's own colours can be seen.
    overlay[mask] = to_rgba(colour, alpha=0.2)
    axes.imshow(overlay, interpolation="nearest")
    # A margin closes the outlines of masks that touch the edge of the image.
    y, x = (np.arange(-1, side + 1) for side in mask.shape)
    axes.contour(x, y, np.pad(mask, 1), levels=[0.5], colors=[colour], linewidths=1.2, zorder=2)
