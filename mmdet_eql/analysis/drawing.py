"""Drawing detections: of one model in any image, or of several models beside the annotations.

Objects have the colour of their category's frequency group. They are :class:`InstanceData` on the
CPU, with ``bboxes`` (x1, y1, x2, y2 in pixels, shape (N, 4)), ``labels`` (shape (N,)), for
detections ``scores`` (shape (N,)), and for models with masks ``masks`` (bool of shape (N, H, W)).
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from mmdet.apis import inference_detector
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import DATASETS, MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader
from mmengine.structures import InstanceData
from torch import nn

from mmdet_eql.engine.checkpoint_fit import check_weights
from mmdet_eql.engine.class_list_hook import follow_classes
from mmdet_eql.engine.num_classes import set_num_classes
from mmdet_eql.frequency import GROUP_COLOURS, GROUP_NAMES, ClassFrequency, frequency_group
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.figure_file import save_figure
from mmdet_eql.utils.rle import to_bitmaps

_IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
#: Colour of categories without a group.
_OTHER_COLOUR = "#BBBBBB"
#: Width of a panel in inches, at 100 dots per inch; images are scaled to it.
_PANEL = 5.0


def find_images(paths: Sequence[str | os.PathLike]) -> list[Path]:
    """Return image files in the order given, those of a folder sorted by name.

    Raises:
        UserError: If a path does not exist, or a folder has no image.
    """
    images = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path}: no such image or folder; correct the path.")
        found = [path]
        if path.is_dir():
            found = sorted(f for f in path.iterdir() if f.suffix.lower() in _IMAGE_SUFFIXES)
        if not found:
            raise UserError(
                f"{path}: holds no image ({', '.join(_IMAGE_SUFFIXES)}); give a folder of them."
            )
        images += found
    return images


def draw_images(
    images: Sequence[Path],
    config: Config,
    checkpoint: str | os.PathLike,
    out_dir: str | os.PathLike,
    score_thr: float = 0.3,
    max_instances: int = 50,
) -> list[Path]:
    """Draw the detections of a model in image files.

    Args:
        images (Sequence[Path]): Image files.
        config (Config): Config of the model, whose test pipeline is used.
        checkpoint (str | os.PathLike): Its checkpoint, which names the categories and their groups.
        out_dir (str | os.PathLike): Folder for one PNG per image, named after its file.
        score_thr (float): Least score of the drawn detections.
        max_instances (int): Greatest number of drawn detections per image.

    Returns:
        list[Path]: The PNG files, in the order of the images.

    Raises:
        UserError: If the checkpoint or an image cannot be used, or a file not be written.
    """
    detector = load_detector(config, checkpoint)
    names = detector.dataset_meta.get("classes")
    if names is None:
        raise UserError(
            f"{checkpoint}: names no categories (meta['dataset_meta']['classes']); give a "
            "checkpoint that a training wrote."
        )
    counts = detector.dataset_meta.get("image_count")
    groups = [""] * len(names) if counts is None else list(frequency_group(counts))
    drawn = []
    for image in images:
        found = detected_instances(inference_detector(detector, str(image)))
        panel = {f"score ≥ {score_thr:g}": best_instances(found, max_instances, score_thr)}
        path, number = Path(out_dir) / f"{image.stem}.png", 1
        while path in drawn:
            number += 1
            path = path.with_name(f"{image.stem}_{number}.png")
        draw_panels(mmcv.imread(image, channel_order="rgb"), panel, names, groups, path)
        drawn.append(path)
    return drawn


def draw_predictions(
    models: Mapping[str, tuple[Config, str | os.PathLike]],
    class_frequency: ClassFrequency,
    out_dir: str | os.PathLike,
    num_images: int = 6,
    score_thr: float = 0.3,
    max_instances: int = 15,
) -> list[Path]:
    """Draw the detections of models in a few validation images, beside the annotations.

    :func:`choose_images` takes them from the ``val_dataloader`` of the first config. The other
    arguments are those of :func:`draw_images`.

    Args:
        models (Mapping[str, tuple[Config, str]]): By name, the config and the checkpoint of models
            of the same classes.
        class_frequency (ClassFrequency): Of the training set, for the colours.
        num_images (int): Number of images.

    Raises:
        UserError: If a checkpoint cannot be used, the models have different classes, or a file
            cannot be written.
    """
    detectors = {name: load_detector(*source) for name, source in models.items()}
    dataset = DATASETS.build(next(iter(models.values()))[0].val_dataloader.dataset)
    names = _common_classes(detectors) or dataset.metainfo["classes"]
    follow_classes(dataset, names, "val_dataloader.dataset")
    group_of = dict(zip(class_frequency.class_names, class_frequency.group, strict=True))
    groups = [group_of.get(name, "c") for name in names]
    paths = []
    for index in choose_images(dataset, groups, num_images):
        info = dataset.get_data_info(index)
        panels = {"annotated": annotated_instances(info)}
        for name, detector in detectors.items():
            found = best_instances(detect(detector, dataset, index), max_instances, score_thr)
            panels[f"{name}, score ≥ {score_thr:g}"] = found
        image = mmcv.imread(info["img_path"], channel_order="rgb")
        paths.append(Path(out_dir) / f"{Path(info['img_path']).stem}.png")
        draw_panels(image, panels, names, groups, paths[-1])
    return paths


def _common_classes(detectors: Mapping[str, nn.Module]) -> Sequence[str] | None:
    """The classes of all detectors, as their checkpoints name them; None if none does."""
    classes = {name: one.dataset_meta.get("classes") for name, one in detectors.items()}
    known = {name: tuple(of_one) for name, of_one in classes.items() if of_one}
    if len(set(known.values())) > 1:
        raise UserError(
            f"the checkpoints of {' and '.join(known)} name different classes, or the same in "
            "another order; draw models of one training set together."
        )
    return next(iter(known.values()), None)


def choose_images(dataset: BaseDataset, groups: Sequence[str], num_images: int) -> list[int]:
    """Return the indices of at most ``num_images`` images with many kinds of annotations.

    Images with more frequency groups come first, then those with more categories, then the order of
    the dataset. ``groups`` are the frequency groups of the labels.
    """

    def rank(index: int) -> tuple:
        instances = dataset.get_data_info(index)["instances"]
        labels = {instance["bbox_label"] for instance in instances}
        return -len({groups[label] for label in labels}), -len(labels), index

    return sorted(range(len(dataset)), key=rank)[:num_images]


def load_detector(config: Config, checkpoint: str | os.PathLike) -> nn.Module:
    """Build a model and load its weights, onto the GPU if there is one.

    Like mmdet's ``init_detector``, but weights that do not fit are refused. The detector is in
    evaluation mode and has ``dataset_meta`` (from the checkpoint) and ``cfg``.

    Raises:
        UserError: If the checkpoint cannot be read or is of another model.
    """
    init_default_scope(config.get("default_scope", "mmdet"))
    config = Config(dict(config.to_dict(), load_from=str(checkpoint)))
    set_num_classes(config, ["test"])
    detector = MODELS.build(config.model)
    loaded = CheckpointLoader.load_checkpoint(str(checkpoint), "cpu", logger="silent")
    check_weights(detector, loaded, str(checkpoint))
    detector.dataset_meta = loaded.get("meta", {}).get("dataset_meta", {})
    detector.cfg = config
    return detector.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def detect(detector: nn.Module, dataset: BaseDataset, index: int) -> InstanceData:
    """Return the detections in an image of a dataset in test mode."""
    with torch.no_grad():
        return detected_instances(detector.test_step(pseudo_collate([dataset[index]]))[0])


def detected_instances(sample: DetDataSample) -> InstanceData:
    """Return ``pred_instances``, whose masks may be RLE, in pixels of the original image."""
    found = sample.pred_instances.cpu()
    if isinstance(found.get("masks"), list):
        found.masks = torch.from_numpy(to_bitmaps(found.masks, sample.ori_shape[:2]))
    return found


def best_instances(found: InstanceData, number: int, score_thr: float) -> InstanceData:
    """Return at most ``number`` detections of at least ``score_thr``, the best first."""
    order = found.scores.argsort(descending=True, stable=True)[:number]
    return found[order[found.scores[order] >= score_thr]]


def annotated_instances(info: dict) -> InstanceData:
    """Return the annotations of a data info with ``instances``, ``height`` and ``width``."""
    # An object without a mask has an empty one.
    instances = [dict(item, mask=item.get("mask") or []) for item in info["instances"]]
    loaded = LoadAnnotations(with_mask=True)(
        dict(instances=instances, ori_shape=(info["height"], info["width"]))
    )
    return InstanceData(
        bboxes=loaded["gt_bboxes"].tensor,
        labels=torch.from_numpy(loaded["gt_bboxes_labels"]),
        masks=torch.from_numpy(loaded["gt_masks"].masks).bool(),
    )


def draw_panels(
    image: np.ndarray,
    panels: Mapping[str, InstanceData],
    names: Sequence[str],
    groups: Sequence[str],
    path: str | os.PathLike,
) -> None:
    """Draw objects into copies of an image, side by side in one PNG.

    ``image`` is RGB, uint8 of shape (H, W, 3); ``panels`` holds the objects of each copy by title;
    ``names`` and ``groups`` are those of the labels, with group ``""`` if it is not known.

    Raises:
        UserError: If the file cannot be written.
    """
    height, width = image.shape[:2]
    size = (_PANEL * len(panels), _PANEL * height / width + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, instances) in zip(row, panels.items(), strict=True):
        axes.imshow(image, interpolation="lanczos")
        axes.set_title(f"{title} ({len(instances)})", fontsize=11)
        axes.set_axis_off()
        axes.autoscale(False)
        # The best are drawn last, over the others.
        for index in reversed(range(len(instances))):
            label = int(instances.labels[index])
            colour = GROUP_COLOURS.get(groups[label], _OTHER_COLOUR)
            _draw_instance(axes, instances[index], names[label], colour)
    handles = [
        Line2D([], [], color=colour, linewidth=4, label=f"{GROUP_NAMES[group]} category")
        for group, colour in GROUP_COLOURS.items()
        if group in groups
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    save_figure(figure, path)


def _draw_instance(axes: Axes, instance: InstanceData, name: str, colour: str) -> None:
    if "masks" in instance and instance.masks.any():
        mask = instance.masks[0].numpy()
        # Faint, so that the object stays visible.
        axes.imshow(mask[..., None] * np.array(to_rgba(colour, alpha=0.2)), interpolation="nearest")
        # A margin closes the outlines of masks that touch the edge of the image.
        y, x = (np.arange(-1, side + 1) for side in mask.shape)
        axes.contour(x, y, np.pad(mask, 1), levels=[0.5], colors=[colour], linewidths=1.2, zorder=2)
    x1, y1, x2, y2 = instance.bboxes[0].tolist()
    axes.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, ec=colour))
    score = f" {float(instance.scores):.2f}" if "scores" in instance else ""
    # Above the box and to its right, if there is room in the image.
    above, right = y1 > 0.05 * axes.get_ylim()[0], x1 < 0.7 * axes.get_xlim()[1]
    axes.text(
        x1 if right else x2,
        y1,
        name + score,
        fontsize=7,
        va="bottom" if above else "top",
        ha="left" if right else "right",
        clip_on=True,
        zorder=4,
        bbox=dict(facecolor=colour, alpha=0.7, pad=1, linewidth=0),
    )
