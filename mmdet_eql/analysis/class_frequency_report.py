"""How long the tail of an annotation file is, and what lambda and the samplers make of it."""

import os
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from mmdet_eql.analysis.data_check import UncheckedDataset
from mmdet_eql.datasets import LVISFormatDataset
from mmdet_eql.datasets.samplers import StreamSampler
from mmdet_eql.frequency import GROUP_COLOURS, GROUP_NAMES
from mmdet_eql.utils.figure_file import save_figure
from mmdet_eql.utils.markdown import markdown_table

_SAMPLER_COLOURS = ("#000000", "#CC79A7", "#E69F00", "#56B4E9")


def read_annotated_images(path: str | os.PathLike) -> LVISFormatDataset:
    """Read a file in COCO or LVIS format as a training set, whose images need not be there.

    Raises:
        UserError: If the file cannot be read, is not in COCO format, or cannot be trained on.
    """
    return UncheckedDataset(ann_file=str(path), pipeline=[])


def draw_epochs(
    images: LVISFormatDataset, samplers: Mapping[str, StreamSampler]
) -> dict[str, np.ndarray]:
    """Return how often each image is drawn in the first epoch of samplers, int64 of shape (M,)."""
    return {
        name: np.bincount(sampler.epoch_indices(0), minlength=len(images))
        for name, sampler in samplers.items()
    }


def category_draws(images: LVISFormatDataset, epoch: np.ndarray) -> np.ndarray:
    """Return the draws of an image with each category in an epoch, float64 of shape (C,)."""
    image, label = images.instance_labels.pairs()
    return np.bincount(label, epoch[image], minlength=len(images.class_frequency))


def format_report(
    images: LVISFormatDataset, lambdas: list[float], epochs: Mapping[str, np.ndarray]
) -> str:
    """Lay out groups, tail ratios and samplers as Markdown; the first lambda is the chosen one."""
    frequency = images.class_frequency
    groups = [("group", "categories", "images, median (range)", "instances")]
    for letter, name in GROUP_NAMES.items():
        of_group = frequency.group == letter
        counts = frequency.image_count[of_group]
        spread = "-"
        if len(counts):
            spread = f"{np.median(counts):,.0f} ({counts.min():,} to {counts.max():,})"
        instances = frequency.instance_count[of_group].sum()
        groups.append((name, f"{of_group.sum():,}", spread, f"{instances:,}"))
    ratios = [("lambda", "tail ratio", "categories in the tail")]
    for lambda_ in sorted(set(lambdas)):
        chosen = " (chosen)" if lambda_ == lambdas[0] else ""
        ratio, tail = 100 * frequency.tail_ratio(lambda_), frequency.frequency < lambda_
        ratios.append((f"{lambda_:g}{chosen}", f"{ratio:.3f} %", f"{tail.sum():,}"))
    tail = np.flatnonzero(frequency.frequency < lambdas[0])
    tail = tail[np.argsort(frequency.frequency[tail], kind="stable")]
    names = [frequency.class_names[label] for label in tail[:20].tolist()]
    more = f" and {len(tail) - 20:,} more" if len(tail) > 20 else ""
    draws = [("sampler", "epoch", *GROUP_NAMES.values(), "most drawn images (id: times)")]
    for name, epoch in epochs.items():
        counts = category_draws(images, epoch)
        shares = [
            f"{100 * counts[frequency.group == letter].sum() / max(counts.sum(), 1):.1f} %"
            for letter in GROUP_NAMES
        ]
        most = np.argsort(-epoch, kind="stable")[:3]
        top = ", ".join(f"{images.image_ids[i]}: {epoch[i]:,}" for i in most)
        draws.append((name, f"{epoch.sum():,}", *shares, top))
    parts = (
        f"{len(images):,} images, {frequency.instance_count.sum():,} instances, "
        f"{len(frequency):,} categories",
        markdown_table(groups),
        markdown_table(ratios),
        f"In the tail, rarest first: {', '.join(names) or 'no category'}{more}",
        markdown_table(draws),
        "The shares are of all (drawn image, category in it) pairs of one epoch.",
    )
    return "\n\n".join(parts)


def plot_report(
    images: LVISFormatDataset, lambda_: float, epochs: Mapping[str, np.ndarray], path: str
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
        drawn = category_draws(images, epoch)[order]
        draws_axes.plot(rank, drawn, lw=1, color=colour, label=name)
    draws_axes.set(
        yscale="symlog",
        xlabel="category, by number of images",
        ylabel="drawn images that contain it, per epoch",
    )
    draws_axes.legend()
    save_figure(figure, path, dpi=120)
