"""T(f): how strongly a category of frequency f is protected from discouraging gradients."""

from torch import Tensor


def threshold_tail(frequency: Tensor, lambda_: float) -> Tensor:
    """The threshold function of the EQL paper (section 4.1): T(f) = 1 if f < lambda else 0.

    Args:
        frequency (Tensor): f_j, shape (C,).
        lambda_ (float): The frequency below which a category belongs to the tail.

    Returns:
        Tensor: T(f_j) in {0, 1}, shape (C,), dtype of ``frequency``.
    """
    return (frequency < lambda_).to(frequency.dtype)
