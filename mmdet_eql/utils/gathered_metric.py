"""Metrics whose results travel between processes as messages."""

import functools
from itertools import chain, zip_longest
from typing import Any

import torch
from mmengine.dist import (
    broadcast_object_list,
    gather_object,
    get_backend,
    get_world_size,
    is_main_process,
)
from mmengine.evaluator import BaseMetric
from torch import distributed


class GatheredMetric(BaseMetric):
    """A base of metrics that sends the results of all processes to the first, which evaluates.

    mmengine's metrics write them to files in the current folder, which may be read-only, or not
    shared by the nodes of a job. With ``collect_device="gpu"`` or a ``collect_dir`` they are
    collected as by mmengine.
    """

    def evaluate(self, size: int) -> dict:
        """Return the metrics of the first ``size`` results, on each process."""
        if get_world_size() == 1 or self.collect_device != "cpu" or self.collect_dir is not None:
            return super().evaluate(size)
        parts = gather_object(self.results, 0, _cpu_group())
        self.results.clear()
        metrics = [None]
        if is_main_process():
            # As mmengine's DefaultSampler shares out: in turns, the last ones repeated.
            results = [r for r in chain.from_iterable(zip_longest(*parts)) if r is not None]
            values = self.compute_metrics(results[:size])
            metrics = [{f"{self.prefix}/{k}" if self.prefix else k: v for k, v in values.items()}]
        broadcast_object_list(metrics)
        return metrics[0]


@functools.cache
def _cpu_group() -> distributed.ProcessGroup | None:
    """A group that sends from main memory; None is the default group."""
    return None if get_backend() == "gloo" else distributed.new_group(backend="gloo")


def to_numpy(values: Any) -> Any:
    """Return a tensor as an array, on the CPU; anything else as it is."""
    if not isinstance(values, torch.Tensor):
        return values
    values = values.detach().cpu()
    # NumPy has no bfloat16.
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
