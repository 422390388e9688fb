"""T(f): how strongly a category of frequency f is protected from discouraging gradients.

A design of T is a callable that maps the frequencies (C,) to weights (C,) in [0, 1]: 1 protects a
category fully, 0 not at all. The EQL paper studies the three here (arXiv 2003.05176). To try
another, register a class, or a function that returns such a callable:

    @TASK_UTILS.register_module()
    def LinearTail(slope):
        return lambda frequency: (1 - slope * frequency).clamp(0, 1)

and name it in the config: ``tail_weighting=dict(type="LinearTail", slope=500)``.

Glossary, and that of :mod:`mmdet_eql.losses.base`:
    lambda: the frequency below which a category belongs to the tail.
    TR(lambda): tail ratio, the share of the image counts N_j that belongs to the tail,
        sum_j T(f_j) N_j / sum_j N_j = sum_j T(f_j) f_j / sum_j f_j.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from mmdet.registry import TASK_UTILS
from torch import Tensor

from mmdet_eql.losses.class_statistics import FrequencyAware
from mmdet_eql.utils.errors import UserError

#: lambda of the EQL paper for LVIS v0.5: its tail is then the rare and the common categories.
DEFAULT_LAMBDA = 1.76e-3
#: For the rounding of f_j = N_j / images: a ratio that a set of categories reaches exactly fits.
_RATIO_TOLERANCE = 1e-9


def check_lambda(lambda_: float | None) -> None:
    """Raise a UserError unless a threshold is a frequency in [0, 1]."""
    if lambda_ is None or not 0 <= lambda_ <= 1:
        raise UserError(
            f"loss_cls: lambda_ is {lambda_}; it is a frequency (images of a category over all "
            "images) and must lie between 0 and 1."
        )


def threshold_tail(frequency: Tensor, lambda_: float) -> Tensor:
    """Return T(f_j) = 1 if f_j < lambda else 0 (section 4.1), shape (C,), type of the input."""
    return (frequency < lambda_).to(frequency.dtype)


def lambda_for_tail_ratio(freq: Tensor | np.ndarray, tail_ratio: float) -> float:
    """Return the largest lambda with TR(lambda) <= ``tail_ratio``.

    This is the frequency of the first category that no longer fits into the tail; categories of
    equal frequency fit together or not at all. A UserError if no category occurs.

    Args:
        freq (Tensor | np.ndarray): f_j, or anything proportional to it such as the image counts
            N_j, shape (C,). lambda is in its unit.
        tail_ratio (float): Wanted tail ratio, in [0, 1); a UserError otherwise.

    Example:
        >>> lambda_for_tail_ratio(np.array([0.1, 0.2, 0.7]), 0.1)  # the first alone fits
        0.2
        >>> lambda_for_tail_ratio(np.array([0.1, 0.2, 0.7]), 0.09)  # none does
        0.1
    """
    _check_tail_ratio(tail_ratio)
    freq = torch.as_tensor(freq).detach().to(torch.float64)
    if freq.ndim != 1 or not bool((freq >= 0).all()) or not bool(freq.sum() > 0):
        raise UserError(
            "lambda_for_tail_ratio: the frequencies must be a list of numbers, at least 0, of "
            "which one is greater; check that the training annotations have objects."
        )
    ascending = freq.sort().values
    mass = ascending.cumsum(0)
    fits = mass <= tail_ratio * (1 + _RATIO_TOLERANCE) * mass[-1]
    # The last category never fits, as tail_ratio < 1, but for the tolerance.
    return ascending[fits.sum().clamp(max=len(freq) - 1)].item()


def _check_tail_ratio(tail_ratio: float) -> None:
    if not 0 <= tail_ratio < 1:
        raise UserError(
            f"tail_ratio is {tail_ratio}; it is a share of all image counts and must be at least 0 "
            "and below 1."
        )


def _check_positive(**parameters: float) -> None:
    for name, value in parameters.items():
        if not (0 < value < math.inf):
            raise UserError(f"tail_weighting.{name} is {value}; it must be greater than 0.")


@TASK_UTILS.register_module()
class ThresholdTail:
    """T(f) = 1 if f < lambda else 0; a UserError unless exactly one argument is given, in range.

    Args:
        lambda_ (float, optional): The threshold, a frequency in [0, 1]. 0 protects no category.
        tail_ratio (float, optional): Instead of it, the tail ratio to reach, in [0, 1): lambda is
            then :func:`lambda_for_tail_ratio` of the training set at hand, so that one config
            suits training sets of any size.

    Example:
        >>> ThresholdTail(lambda_=0.1)(torch.tensor([0.05, 0.1, 0.5]))
        tensor([1., 0., 0.])
        >>> ThresholdTail(tail_ratio=0.3)(torch.tensor([0.05, 0.1, 0.5]))
        tensor([1., 1., 0.])
    """

    def __init__(self, lambda_: float | None = None, tail_ratio: float | None = None) -> None:
        if (lambda_ is None) == (tail_ratio is None):
            raise UserError(
                "tail_weighting: ThresholdTail takes lambda_ or tail_ratio; give exactly one."
            )
        if tail_ratio is not None:
            _check_tail_ratio(tail_ratio)
        else:
            check_lambda(lambda_)
        self.lambda_ = lambda_
        self.tail_ratio = tail_ratio

    def __call__(self, frequency: Tensor) -> Tensor:
        """Return T(f_j) in {0, 1} for frequencies of shape (C,)."""
        lambda_ = self.lambda_
        if lambda_ is None:
            lambda_ = lambda_for_tail_ratio(frequency, self.tail_ratio)
        return threshold_tail(frequency, lambda_)


@TASK_UTILS.register_module()
class ExponentialDecayTail:
    """T(f) = 1 - (a f)^n, clipped to [0, 1]: full protection at f = 0, none from f = 1 / a on.

    The scale a and the power n have to be greater than 0; a UserError otherwise.

    Example:
        >>> ExponentialDecayTail(a=2.0, n=2.0)(torch.tensor([0.0, 0.25, 0.5, 1.0]))
        tensor([1.0000, 0.7500, 0.0000, 0.0000])
    """

    def __init__(self, a: float, n: float) -> None:
        _check_positive(a=a, n=n)
        self.a = a
        self.n = n

    def __call__(self, frequency: Tensor) -> Tensor:
        """Return T(f_j) in [0, 1] for frequencies of shape (C,)."""
        return (1 - (self.a * frequency) ** self.n).clamp(0, 1)


@TASK_UTILS.register_module()
class GompertzDecayTail:
    """T(f) = 1 - a exp(-b exp(-c f)), clipped to [0, 1]: from 1 - a exp(-b) down to 1 - a.

    Args:
        a (float): Depth of the decay, greater than 0; 1 ends without protection.
        b (float): Shift along f, greater than 0; the larger, the later the decay begins.
        c (float): Steepness, greater than 0. A UserError if one of the three is not.

    Example:
        >>> GompertzDecayTail(a=1.0, b=80.0, c=3000.0)(torch.tensor([0.0, 1e-3, 1e-2]))
        tensor([1.0000, 0.9814, 0.0000])
    """

    def __init__(self, a: float, b: float, c: float) -> None:
        _check_positive(a=a, b=b, c=c)
        self.a = a
        self.b = b
        self.c = c

    def __call__(self, frequency: Tensor) -> Tensor:
        """Return T(f_j) in [0, 1] for frequencies of shape (C,)."""
        decay = torch.exp(-self.b * torch.exp(-self.c * frequency))
        return (1 - self.a * decay).clamp(0, 1)


def build_tail_weighting(tail_weighting: dict | Callable[[Tensor], Tensor]) -> Callable:
    """Build T from its config; a callable is returned as it is. A UserError if the config has no
    known type or wrong parameters."""
    if callable(tail_weighting):
        return tail_weighting
    if not isinstance(tail_weighting, dict) or "type" not in tail_weighting:
        raise UserError(
            f"loss_cls.tail_weighting is {tail_weighting!r}; give a dict with a type, such as "
            "dict(type='ThresholdTail', lambda_=1e-3)."
        )
    kind = tail_weighting["type"]
    if isinstance(kind, str) and TASK_UTILS.get(kind) is None:
        raise UserError(
            f"loss_cls.tail_weighting.type is {kind!r}, which is not registered; choose "
            "'ThresholdTail', 'ExponentialDecayTail' or 'GompertzDecayTail', or register your own "
            "in TASK_UTILS and name its module in custom_imports."
        )
    try:
        return TASK_UTILS.build(dict(tail_weighting))
    except TypeError as error:
        raise UserError(f"loss_cls.tail_weighting: {error}; correct its parameters.") from error


def checked_tail(weighting: Callable[[Tensor], Tensor], frequency: Tensor) -> Tensor:
    """Return T(f_j) of frequencies (C,); a UserError if it is not one weight in [0, 1] for each."""
    weights = weighting(frequency)
    name = getattr(weighting, "__name__", type(weighting).__name__)
    if not isinstance(weights, Tensor) or weights.shape != frequency.shape:
        raise UserError(
            f"loss_cls.tail_weighting: {name} must return a tensor of shape "
            f"{tuple(frequency.shape)}, one weight per category; correct its code."
        )
    if not bool(((weights >= 0) & (weights <= 1)).all()):
        raise UserError(
            f"loss_cls.tail_weighting: {name} returned a weight outside of 0..1; clip it."
        )
    return weights


class TailAware(FrequencyAware):
    """Mixin of the losses with a tail of categories; a UserError if an argument is out of range.

    Args:
        lambda_ (float, optional): Frequency below which a category belongs to the tail. 0 makes
            a loss without a tail, which needs no frequencies.
        tail_weighting (dict, optional): Another T(f) than the threshold at ``lambda_``, which is
            None or its default then, built from the registry ``TASK_UTILS``.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        lambda_: float | None = DEFAULT_LAMBDA,
        tail_weighting: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(num_classes, **kwargs)
        if tail_weighting is None:
            check_lambda(lambda_)
            tail_weighting = ThresholdTail(lambda_)
        elif lambda_ in (None, DEFAULT_LAMBDA):
            lambda_ = None
        else:
            raise UserError(
                f"loss_cls has lambda_={lambda_} and tail_weighting, which would replace it; set "
                "one of them to None."
            )
        self.lambda_ = lambda_
        self.tail_weighting = build_tail_weighting(tail_weighting)

    def tail_weights(self) -> Tensor:
        """Return T(f_j) in [0, 1], float64 of shape (C,); a UserError if frequencies are missing,
        or ``tail_weighting`` returns something else than a weight in [0, 1] per category."""
        if self.lambda_ == 0:
            return torch.zeros_like(self.class_frequency)
        return checked_tail(self.tail_weighting, self.known_class_frequency())
