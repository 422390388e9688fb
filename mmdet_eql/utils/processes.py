"""Work in forked processes that end with the process that started them."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from mmdet_eql.utils.errors import UserError


def num_cores() -> int:
    """Return how many cores this process may use; 1 on macOS, where a fork may not survive."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


@contextlib.contextmanager
def map_forked(
    work: Callable[[Any], Any], items: Iterable, num_workers: int | None = None
) -> Iterator[Iterator]:
    """Apply a function to each item in processes, which end with the block.

    They are forked, since importing the package again takes longer than small work does; they share
    what this process holds in memory, leave Ctrl-C to it, and end by themselves if it is killed.
    Each has a pipe of its own, which ends with it: a pool would wait for ever for the rest of a
    result whose process was killed. A process that waits for its results to be taken is idle.

    Args:
        work (Callable): What it returns or raises must be such that it can be pickled.
        items (Iterable): Process k takes each ``num_workers``-th one, from the k-th on.
        num_workers (int, optional): Number of processes; 1, and a daemon, which may have no
            children, works by itself. Defaults to one for each core.

    Yields:
        Iterator: What ``work`` returns for each item, in order. It raises what ``work`` raises, and
        a UserError if a process was killed.

    Example:
        >>> with map_forked(abs, [-1, 2, -3], 2) as results:
        ...     list(results)
        [1, 2, 3]
    """
    num_workers = num_workers or num_cores()
    if num_workers == 1 or multiprocessing.current_process().daemon:
        yield map(work, items)
        return
    items = list(items)
    # One process per core is enough, and a forked one could wait for OpenCV's threads for ever.
    opencv = sys.modules.get("cv2")
    threads = opencv and opencv.getNumThreads()
    if opencv:
        opencv.setNumThreads(0)
    context = multiprocessing.get_context("fork")
    readers, processes = [], []
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
        yield (_receive(readers[index % num_workers]) for index in range(len(items)))
    finally:
        for process in processes:
            process.kill()
            process.join()
        for reader in readers:
            reader.close()
        if opencv:
            opencv.setNumThreads(threads)


def _receive(reader: Connection) -> Any:
    try:
        result, error = reader.recv()
    except (EOFError, OSError):
        raise UserError(
            "a process was killed at its work, as the system does when memory runs out; free some "
            "and start again, with fewer processes if there is an option for it."
        ) from None
    if error is not None:
        raise error
    return result


def _send_results(work: Callable[[Any], Any], items: Sequence, writer: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for item in items:
        try:
            writer.send((work(item), None))
        except Exception as error:
            writer.send((None, error))


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
