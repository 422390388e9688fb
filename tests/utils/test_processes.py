"""Pools of processes end with the process that started them."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from mmdet_eql.utils.processes import process_pool


def alive(pid: int) -> bool:
    # A process that has ended but that nobody waited for has no command line any more.
    command = Path(f"/proc/{pid}/cmdline")
    return command.exists() and command.read_bytes() != b""


def work_for_ever(pids) -> None:
    with process_pool(2) as pool:
        pids.send(pool.submit(os.getpid).result())
        list(pool.map(time.sleep, [600] * 4))


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
    with pytest.raises(KeyboardInterrupt), process_pool(1) as pool:
        for number in range(50):
            pool.submit(write_slowly, tmp_path / str(number))
        raise KeyboardInterrupt
    assert len(list(tmp_path.iterdir())) < 10


def write_slowly(path) -> None:
    time.sleep(0.05)
    path.touch()
