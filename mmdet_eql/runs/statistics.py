"""Mean, spread and significance tests of a metric over the seeds of groups of runs.

Standard deviations have n - 1 in the denominator, with n the number of runs (seeds) of a group.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mmdet_eql.runs.groups import RunGroup
from mmdet_eql.utils.errors import UserError

CONFIDENCE = 0.95
TESTS = {"welch": "Welch's t-test", "paired": "t-test paired by seed"}


@dataclass(frozen=True)
class Difference:
    """Difference of a group to the baseline in one metric: that of the means, a fraction.

    With its confidence interval and the two-sided p-value of no difference, NaN if unknown.
    """

    mean: float
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan

    @property
    def mark(self) -> str:
        """``"**"`` for p < 0.01, ``"*"`` for p < 0.05, else nothing."""
        return "**" if self.p < 0.01 else "*" if self.p < 0.05 else ""


def mean_and_std(values: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of values of shape (n,).

    Both are NaN if a run lacks the metric; the standard deviation of a single run is NaN.
    """
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan


def compare(group: RunGroup, baseline: RunGroup, kind: str, metric: str, test: str) -> Difference:
    """Compare a metric of a group with that of the baseline.

    Args:
        test (str): ``"welch"``: Welch's t-test, which assumes neither equal variances nor equally
            many runs. ``"paired"``: the t-test of the differences between runs of the same seed.

    Returns:
        Difference: With a 95 % confidence interval by the same test. Without interval and p-value
        if there are fewer than two runs or no variance at all.

    Raises:
        UserError: If the test is paired and the seeds are not the same.
    """
    ours, theirs = group.values(kind, metric), baseline.values(kind, metric)
    if test == "paired":
        seeds = [[record.seed for record in each.records] for each in (group, baseline)]
        if seeds[0] != seeds[1] or None in seeds[0] or len(set(seeds[0])) != len(seeds[0]):
            raise UserError(
                f"a paired test needs runs of the same seeds, but {group.label!r} has {seeds[0]} "
                f"and {baseline.label!r} {seeds[1]}; take Welch's test."
            )
        spread = (ours - theirs).std()
    else:
        spread = max(ours.std(), theirs.std())
    difference = float(ours.mean() - theirs.mean())
    if min(len(ours), len(theirs)) < 2 or not spread > 0:
        return Difference(difference)
    with warnings.catch_warnings():
        # All runs of one group may have the same value, such as 0.
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        if test == "paired":
            result = stats.ttest_rel(ours, theirs)
        else:
            result = stats.ttest_ind(ours, theirs, equal_var=False)
    interval = result.confidence_interval(CONFIDENCE)
    return Difference(difference, float(interval.low), float(interval.high), float(result.pvalue))
