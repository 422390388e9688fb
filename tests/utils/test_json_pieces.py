import json
import multiprocessing
import os
from itertools import chain

import pytest
from msgspec import DecodeError
from msgspec.json import decode

from mmdet_eql.utils import json_pieces
from mmdet_eql.utils.json_pieces import map_file, map_pieces


@pytest.fixture
def long_list(tmp_path, monkeypatch):
    """A file of more pieces than one process takes."""
    monkeypatch.setattr(json_pieces, "_BYTES_AT_ONCE", 100)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    path = tmp_path / "list.json"
    path.write_text(json.dumps([{"id": index} for index in range(500)]))
    return path


def all_ids(path):
    pieces = map_pieces(lambda piece: [one["id"] for one in decode(piece)], map_file(path))
    return list(chain.from_iterable(pieces))


def test_processes_return_the_pieces_in_order(long_list):
    assert all_ids(long_list) == list(range(500))
    assert os.getpid() not in map_pieces(lambda _: os.getpid(), map_file(long_list))


def test_what_a_process_raises_is_raised(long_list):
    """A cut inside a string leaves a piece that is no JSON."""
    long_list.write_text(json.dumps([{"id": index, "text": "}, {"} for index in range(500)]))
    with pytest.raises(DecodeError):
        all_ids(long_list)


def test_a_system_without_affinity_decodes_in_one_process(long_list, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert {os.getpid()} == set(map_pieces(lambda _: os.getpid(), map_file(long_list)))


def test_a_daemon_decodes_by_itself(long_list):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(all_ids, (long_list,)) == list(range(500))
