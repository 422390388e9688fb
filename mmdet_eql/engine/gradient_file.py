"""The file of recorded gradients: what each category received from positives and negatives.

``GradientRecordHook`` writes it, ``tools/analysis/plot_gradients.py`` draws it. It is figure 1 of
the Equalization Loss (arXiv 2003.05176): a rare category receives far more gradient from the
proposals of other categories and of background than from its own.

For a classifier z_ij = w_j . x_i + b_j, the record sums over proposals i and iterations the L2
norms of the contributions to the gradient on w_j:

    pos_j = sum over i of category j      of |dL/dz_ij| ||x_i||
    neg_j = sum over i of other labels    of |dL/dz_ij| ||x_i||

or, as EQL v2 measures it (arXiv 2012.08548), without the factor ||x_i||: the gradients on the
logits. L is the loss that is minimised, with its weights and divisions, averaged over the ranks.
C is the number of foreground categories, H of classifiers (one per stage of a cascade), S of the
iterations at which the sums so far were noted.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmdet_eql.frequency import GROUP_NAMES, ClassFrequency
from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import atomic_write

#: What is recorded: gradients on the weights of the classifier, or on its logits.
QUANTITIES = ("weights", "logits")
#: Name of the file in a work_dir.
FILE_NAME = "gradient_record.npz"


@dataclass(frozen=True, eq=False)
class GradientRecord:
    """Sums of the positive and negative gradients of each category.

    Args:
        quantity (str): ``"weights"`` or ``"logits"``.
        heads (tuple[str]): H names of the modules that own a classifier.
        class_frequency (ClassFrequency): Of the training set.
        iterations (np.ndarray): When the sums were noted, int64 of shape (S,), ascending.
        positive (np.ndarray): pos_j from the first iteration on, float32 of shape (S, H, C).
        negative (np.ndarray): neg_j likewise.
    """

    quantity: str
    heads: tuple[str, ...]
    class_frequency: ClassFrequency
    iterations: np.ndarray
    positive: np.ndarray
    negative: np.ndarray

    def ratio(self) -> np.ndarray:
        """Return pos_j / neg_j of the whole training over all classifiers, float64 of shape (C,).

        It is 0 without positives, infinite without negatives, NaN with neither.
        """
        return gradient_ratio(self.positive[-1].sum(axis=0), self.negative[-1].sum(axis=0))

    def group_ratio_over_training(self) -> dict[str, np.ndarray]:
        """Return the sum of pos_j over that of neg_j of a frequency group, between two notes each.

        Of sums, since most rare categories have no positive in a few hundred iterations. By
        ``"r"``, ``"c"`` and ``"f"``, float64 of shape (S,); the first is from the beginning.
        """
        ratios = {}
        for letter in GROUP_NAMES:
            chosen = self.class_frequency.group == letter
            positive, negative = (
                np.diff(sums[:, :, chosen].sum(axis=(1, 2), dtype=np.float64), prepend=0)
                for sums in (self.positive, self.negative)
            )
            ratios[letter] = gradient_ratio(positive, negative)
        return ratios

    def until(self, iteration: int) -> "GradientRecord":
        """Return the record as it was after an iteration."""
        kept = self.iterations <= iteration
        sums = dict(positive=self.positive[kept], negative=self.negative[kept])
        return dataclasses.replace(self, iterations=self.iterations[kept], **sums)

    def with_note(
        self, iteration: int, positive: np.ndarray, negative: np.ndarray
    ) -> "GradientRecord":
        """Return a copy with the sums, each of shape (H, C), after an iteration."""
        return dataclasses.replace(
            self,
            iterations=np.append(self.iterations, iteration),
            positive=np.concatenate([self.positive, positive[None].astype(np.float32)]),
            negative=np.concatenate([self.negative, negative[None].astype(np.float32)]),
        )

    def matches(self, other: "GradientRecord") -> bool:
        """Return whether classifiers, categories and quantity are the same."""
        same_names = self.class_frequency.class_names == other.class_frequency.class_names
        return same_names and (self.quantity, self.heads) == (other.quantity, other.heads)

    def save(self, path: str | os.PathLike) -> None:
        """Write an ``.npz`` of plain arrays whole; a UserError if that fails."""
        arrays = dataclasses.asdict(self)
        arrays.update(arrays.pop("class_frequency"))
        with atomic_write(path) as unfinished, open(unfinished, "wb") as file:
            np.savez_compressed(file, **arrays)


def empty_record(
    quantity: str, heads: tuple[str, ...], class_frequency: ClassFrequency
) -> GradientRecord:
    """Return a record without notes."""
    sums = np.zeros((0, len(heads), len(class_frequency)), np.float32)
    return GradientRecord(quantity, heads, class_frequency, np.zeros(0, np.int64), sums, sums)


def pool_records(records: Sequence[GradientRecord]) -> GradientRecord:
    """Add up the gradients of several runs, such as one per seed.

    Of their notes, those at iterations that all have are kept. A UserError if heads, categories or
    quantities differ, or the numbers of iterations.
    """
    first = records[0]
    if not all(first.matches(other) for other in records):
        raise UserError(
            "gradient record: runs of the same name record other heads, categories or quantities; "
            "give them names of their own."
        )
    last = sorted({int(record.iterations[-1]) for record in records})
    if len(last) > 1:
        raise UserError(
            f"gradient record: runs of the same name end after {' and '.join(map(str, last))} "
            "iterations; let them train equally long, or give them names of their own."
        )
    common = functools.reduce(np.intersect1d, [record.iterations for record in records])
    kept = [(record, np.isin(record.iterations, common)) for record in records]
    return dataclasses.replace(
        first,
        iterations=common,
        positive=sum(record.positive[rows] for record, rows in kept),
        negative=sum(record.negative[rows] for record, rows in kept),
    )


def load_gradient_record(path: str | os.PathLike) -> GradientRecord:
    """Read a record from a file, or from the work_dir that holds it, without running code; a
    UserError if there is none, or the file is damaged."""
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; train with --cfg-options "
            "default_hooks.gradient_record.type=GradientRecordHook."
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            heads = tuple(arrays["heads"].tolist())
            class_frequency = ClassFrequency(
                image_count=arrays["image_count"],
                instance_count=arrays["instance_count"],
                num_images=int(arrays["num_images"]),
                class_names=tuple(arrays["class_names"].tolist()),
            )
            sums = (arrays[name] for name in ("iterations", "positive", "negative"))
            record = GradientRecord(str(arrays["quantity"]), heads, class_frequency, *sums)
    except UserError:
        raise
    except Exception as error:  # a damaged archive ends in any of zipfile's, zlib's and NumPy's
        raise UserError(
            f"{path}: is no record of gradients ({' '.join(str(error).split())}); give the "
            f"{FILE_NAME} that GradientRecordHook wrote."
        ) from None
    expected = (len(record.iterations), len(record.heads), len(record.class_frequency))
    if not expected[0] or any(s.shape != expected for s in (record.positive, record.negative)):
        raise UserError(
            f"{path}: field 'positive' or 'negative' is not of the shape {expected} that its "
            "iterations, heads and categories ask for; record it again."
        )
    return record


def gradient_ratio(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Return positive over negative sums of any shape in float64; NaN where both are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(positive, np.float64) / np.asarray(negative, np.float64)


def group_medians(ratio: np.ndarray, group: np.ndarray) -> dict[str, float]:
    """Return the median of the ratios that are not NaN by frequency group (``"r"``, ``"c"``,
    ``"f"``); ``ratio`` and ``group`` are of shape (C,)."""
    known = {letter: ratio[(group == letter) & ~np.isnan(ratio)] for letter in GROUP_NAMES}
    return {k: float(np.median(values)) if len(values) else math.nan for k, values in known.items()}
