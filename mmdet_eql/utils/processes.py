"""Forked processes that end with the process that started them."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from typing import Any


class KilledError(Exception):
    """A process ended before its work, as when the system kills it since memory runs out."""


@contextlib.contextmanager
def process_pool(num_workers: int | None = None) -> Iterator[ProcessPoolExecutor]:
    """Start worker processes; drop what is still to do when the block is left by an exception.

    Workers leave Ctrl-C to this process, and end by themselves if it is killed. They are forked,
    since importing the package again takes longer than small work does.

    Args:
        num_workers (int, optional): Number of processes; None takes one per core.
    """
    # One process per core is enough, and a forked one could wait for OpenCV's threads for ever.
    opencv = sys.modules.get("cv2")
    threads = opencv and opencv.getNumThreads()
    if opencv:
        opencv.setNumThreads(0)
    context = multiprocessing.get_context("fork")
    executor = ProcessPoolExecutor(num_workers, context, _follow_parent)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        if opencv:
            opencv.setNumThreads(threads)


def map_forked(work: Callable[[Any], Any], items: Sequence, num_workers: int) -> list:
    """Apply a function to each item in forked processes that share what this one holds in memory.

    For large results, where a pool would wait for ever for the rest of one whose process was
    killed: it cannot know, since all its processes write to one pipe.

    Args:
        work (Callable): What it returns or raises must be such that it can be pickled.
        items (Sequence): Process k takes each ``num_workers``-th one, from the k-th on.
        num_workers (int): Number of processes, at most that of the items.

    Returns:
        list: What ``work`` returned, in order.

    Raises:
        KilledError: If a process was killed.
        Exception: What ``work`` raised first, in order.
    """
    context = multiprocessing.get_context("fork")
    readers, processes, results = [], [], []
    try:
        for first in range(num_workers):
            reader, writer = context.Pipe(duplex=False)
            args = work, items[first::num_workers], writer
            process = context.Process(target=_send_results, args=args, daemon=True)
            process.start()
            processes.append(process)
            # Only the process itself holds it now, so that its end is the end of the pipe.
            writer.close()
            readers.append(reader)
        for index in range(len(items)):
            try:
                result, error = readers[index % num_workers].recv()
            except (EOFError, OSError):
                raise KilledError from None
            if error is not None:
                raise error
            results.append(result)
        return results
    finally:
        for process in processes:
            process.kill()
            process.join()
        for reader in readers:
            reader.close()


def _send_results(work: Callable[[Any], Any], items: Sequence, writer: Connection) -> None:
    _follow_parent()
    for item in items:
        try:
            writer.send((work(item), None))
        except Exception as error:
            writer.send((None, error))


def _follow_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
