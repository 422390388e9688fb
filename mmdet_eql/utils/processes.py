"""A pool of processes that ends with the process that started it."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor


@contextlib.contextmanager
def process_pool(
    num_workers: int | None = None, begin: Callable[[], object] = lambda: None
) -> Iterator[ProcessPoolExecutor]:
    """Start worker processes; drop what is still to do when the block is left by an exception.

    Workers leave Ctrl-C to this process, and end by themselves if it is killed. They are forked,
    since importing the package again takes longer than small work does.

    Args:
        num_workers (int, optional): Number of processes; None takes one per core.
        begin (Callable[[], object]): What each does first; it need not be possible to pickle it.
    """
    # One process per core is enough, and a forked one could wait for OpenCV's threads for ever.
    opencv = sys.modules.get("cv2")
    threads = opencv and opencv.getNumThreads()
    if opencv:
        opencv.setNumThreads(0)
    context = multiprocessing.get_context("fork")
    executor = ProcessPoolExecutor(num_workers, context, _follow_parent, (begin,))
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        if opencv:
            opencv.setNumThreads(threads)


def _follow_parent(begin: Callable[[], object]) -> None:
    begin()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
