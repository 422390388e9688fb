"""How long the tail of an annotation file is, and what lambda and the samplers make of it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from mmdet_eql.annotations.instance_labels import InstanceLabels
from mmdet_eql.annotations.reader import read_annotations
from mmdet_eql.datasets.samplers import StreamSampler
from mmdet_eql.frequency import GROUP_COLOURS, GROUP_NAMES, ClassFrequency
from mmdet_eql.utils.figure_file import save_figure

_SAMPLER_COLOURS = ("#000000", "#CC79A7", "#E69F00", "#56B4E9")


@dataclass(frozen=True, eq=False)
class AnnotatedImages:
    """The labels of all annotations of M images, with all that a sampler asks of a dataset.

    ``image_ids`` is int64 of shape (M,).
    """

    image_ids: np.ndarray
    instance_labels: InstanceLabels
    class_frequency: ClassFrequency

    def __len__(self) -> int:
        return len(self.image_ids)

    def category_draws(self, epoch: np.ndarray) -> np.ndarray:
        """Return the draws of an image with each category, int64 of shape (C,)."""
        image, label = self.instance_labels.pairs()
        drawn = np.bincount(label, epoch[image], minlength=len(self.class_frequency))
        return drawn.astype(np.int64)


def read_annotated_images(path: str | os.PathLike) -> AnnotatedImages:
    """Read the labels from a file in COCO or LVIS format, in the order of the category ids.

    Raises:
        UserError: If the file cannot be read or is not in COCO format.
    """
    columns = read_annotations(str(path))
    labels = InstanceLabels(columns.annotation_start, columns.category.astype(np.int64))
    frequency = ClassFrequency.from_labels(
        labels.image_index, labels.labels, len(labels), columns.category_name
    )
    return AnnotatedImages(columns.image_id, labels, frequency)


def draw_epochs(
    images: AnnotatedImages, samplers: Mapping[str, StreamSampler]
) -> dict[str, np.ndarray]:
    """Return how often each image is drawn in the first epoch of samplers, int64 of shape (M,)."""
    return {
        name: np.bincount(sampler.epoch_indices(0), minlength=len(images))
        for name, sampler in samplers.items()
    }


def format_report(
    images: AnnotatedImages, lambdas: list[float], epochs: Mapping[str, np.ndarray]
) -> str:
    """Lay out groups, tail ratios and samplers as Markdown; the first lambda is the chosen one."""
    frequency = images.class_frequency
    lines = [
        f"{len(images):,} images, {frequency.instance_count.sum():,} instances, "
        f"{len(frequency):,} categories",
        "",
        "| group | categories | images, median (range) | instances |",
        "|---|---|---|---|",
    ]
    for letter, name in GROUP_NAMES.items():
        of_group = frequency.group == letter
        counts = frequency.image_count[of_group]
        spread = "-"
        if len(counts):
            spread = f"{np.median(counts):,.0f} ({counts.min():,} to {counts.max():,})"
        instances = frequency.instance_count[of_group].sum()
        lines.append(f"| {name} | {of_group.sum():,} | {spread} | {instances:,} |")
    lines += ["", "| lambda | tail ratio | categories in the tail |", "|---|---|---|"]
    for lambda_ in sorted(set(lambdas)):
        chosen = " (chosen)" if lambda_ == lambdas[0] else ""
        lines.append(
            f"| {lambda_:g}{chosen} | {100 * frequency.tail_ratio(lambda_):.3f} % | "
            f"{(frequency.frequency < lambda_).sum():,} |"
        )
    tail = np.flatnonzero(frequency.frequency < lambdas[0])
    tail = tail[np.argsort(frequency.frequency[tail], kind="stable")]
    names = [frequency.class_names[label] for label in tail[:20].tolist()]
    more = f" and {len(tail) - 20:,} more" if len(tail) > 20 else ""
    lines += ["", f"In the tail, rarest first: {', '.join(names) or 'no category'}{more}"]
    lines += ["", "| sampler | epoch | rare | common | frequent | most drawn images (id: times) |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, epoch in epochs.items():
        counts = images.category_draws(epoch)
        shares = [
            f"{100 * counts[frequency.group == letter].sum() / max(counts.sum(), 1):.1f} %"
            for letter in GROUP_NAMES
        ]
        most = np.argsort(-epoch, kind="stable")[:3]
        top = ", ".join(f"{images.image_ids[i]}: {epoch[i]:,}" for i in most)
        lines.append(f"| {name} | {epoch.sum():,} | {' | '.join(shares)} | {top} |")
    lines += ["", "The shares are of all (drawn image, category in it) pairs of one epoch."]
    return "\n".join(lines)


def plot_report(
    images: AnnotatedImages, lambda_: float, epochs: Mapping[str, np.ndarray], path: str
) -> None:
    """Draw counts per category, tail ratio against lambda, and what samplers draw, as PNG.

    Raises:
        UserError: If the file cannot be written.
    """
    frequency = images.class_frequency
    order = np.argsort(-frequency.image_count, kind="stable")
    rank = np.arange(1, len(order) + 1)
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    counts_axes, tail_axes, draws_axes = figure.subplots(1, 3)
    for letter, name in GROUP_NAMES.items():
        here = frequency.group[order] == letter
        options = dict(s=6, color=GROUP_COLOURS[letter])
        counts_axes.scatter(
            rank[here], frequency.image_count[order][here], label=f"{name}, images", **options
        )
        counts_axes.scatter(
            rank[here], frequency.instance_count[order][here], alpha=0.25, marker="^", **options
        )
    counts_axes.set(
        yscale="symlog", xlabel="category, by number of images", ylabel="images (pale: instances)"
    )
    counts_axes.legend(markerscale=3)

    occurring = np.unique(frequency.frequency[frequency.frequency > 0])
    lambdas = np.unique(np.concatenate([occurring, occurring * (1 + 1e-9), [lambda_]]))
    ratios = [100 * frequency.tail_ratio(value) for value in lambdas]
    tail_axes.plot(lambdas, ratios, color="black")
    chosen = 100 * frequency.tail_ratio(lambda_)
    tail_axes.plot([lambda_], [chosen], "o", color="#D55E00")
    tail_axes.text(lambda_, chosen, f"  lambda {lambda_:g}: {chosen:.2f} %", va="top")
    tail_axes.set(xscale="log", xlabel="lambda", ylabel="tail ratio (%)")

    for (name, epoch), colour in zip(epochs.items(), _SAMPLER_COLOURS, strict=False):
        drawn = images.category_draws(epoch)[order]
        draws_axes.plot(rank, drawn, lw=1, color=colour, label=name)
    draws_axes.set(
        yscale="symlog",
        xlabel="category, by number of images",
        ylabel="drawn images that contain it, per epoch",
    )
    draws_axes.legend()
    save_figure(figure, path, dpi=120)
