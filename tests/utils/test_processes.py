"""Processes end with the process that started them, and it does not wait for those that ended."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.processes import map_forked


def alive(pid: int) -> bool:
    # A process that has ended but that nobody waited for has no command line any more.
    command = Path(f"/proc/{pid}/cmdline")
    return command.exists() and command.read_bytes() != b""


def work_for_ever(pids) -> None:
    with map_forked(lambda item: time.sleep(item) or os.getpid(), [0, 0, 600, 600], 2) as results:
        pids.send(next(results))
        list(results)


def test_workers_end_when_their_parent_is_killed():
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    parent = context.Process(target=work_for_ever, args=(sender,))
    parent.start()
    assert receiver.poll(60)
    worker = receiver.recv()
    assert alive(worker)
    parent.kill()
    parent.join()
    end = time.monotonic() + 60
    while alive(worker):
        assert time.monotonic() < end, "the worker lives on"
        time.sleep(0.05)


def test_an_error_drops_what_is_still_to_do(tmp_path):
    files = [tmp_path / str(number) for number in range(50)]
    with pytest.raises(KeyboardInterrupt), map_forked(write_slowly, files, 2):
        raise KeyboardInterrupt
    assert not multiprocessing.active_children()
    assert len(list(tmp_path.iterdir())) < 10


def write_slowly(path) -> None:
    time.sleep(0.05)
    path.touch()


def test_forked_processes_share_what_cannot_be_pickled():
    with map_forked(lambda item: (item, os.getpid()), range(7), 2) as results:
        items, processes = zip(*results, strict=True)
    assert items == tuple(range(7))
    assert len(set(processes)) == 2
    assert os.getpid() not in processes


@pytest.mark.parametrize("num_bytes", [1, 1 << 24])
def test_a_process_that_is_killed_is_not_waited_for(num_bytes):
    """Before its result, and in the middle of one, of which a pipe holds 64 KiB."""

    def work(item: int) -> bytes:
        if item == 1:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGKILL)).start()
        time.sleep(0.3 if item == 0 or num_bytes == 1 else 0)
        return bytes(num_bytes)

    with (
        pytest.raises(UserError, match="a process was killed at its work"),
        map_forked(work, range(4), 2) as results,
    ):
        list(results)
    assert not multiprocessing.active_children()
