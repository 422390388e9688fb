"""The cache of an annotation file: used, made anew, shared, and done without."""

import json
import multiprocessing
import os
import shutil
import zlib
from pathlib import Path

import mmengine.logging
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdet_eql.annotations import reader
from mmdet_eql.annotations.cache import CACHE_VARIABLE, CacheFileError, map_cache, write_cache
from mmdet_eql.annotations.reader import read_annotations
from mmdet_eql.datasets import LVISFormatDataset
from tests.fuzz.mutations import spoilt_bytes


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """No cache of the user's own."""
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "mmdet_eql"


@pytest.fixture
def ann_file(minilvis, tmp_path):
    (tmp_path / "data").mkdir()
    source = minilvis / "annotations" / "minilvis_train.json"
    return Path(shutil.copy(source, tmp_path / "data" / "train.json"))


@pytest.fixture
def decoded(monkeypatch):
    """A list that grows each time a file is decoded."""
    times = []

    def decode(path, name, decode=reader.decode_columns):
        times.append(path)
        return decode(path, name)

    monkeypatch.setattr(reader, "decode_columns", decode)
    return times


@pytest.fixture
def said(monkeypatch):
    """What is told in the log."""
    sentences = []
    monkeypatch.setattr(
        mmengine.logging, "print_log", lambda sentence, **kwargs: sentences.append(sentence)
    )
    return sentences


def cache_of(ann_file: Path) -> Path:
    return ann_file.parent / ".mmdet_eql_cache" / f"{ann_file.name}.columns"


def read(ann_file: Path, **options):
    return read_annotations(str(ann_file), **options)


def assert_equal(columns, expected):
    assert columns.about() == expected.about()
    for name, array in expected.arrays().items():
        np.testing.assert_array_equal(getattr(columns, name), array, strict=True)


def test_the_second_start_decodes_nothing(ann_file, decoded, said):
    expected = read(ann_file, cache=False)
    assert not cache_of(ann_file).exists()
    first, second = read(ann_file), read(ann_file)
    assert len(decoded) == 2
    for columns in (first, second):
        assert_equal(columns, expected)
        # Of the mapped file, not of this process.
        assert not columns.segmentation_text.flags.owndata
        assert not columns.segmentation_text.flags.writeable
    assert said == []


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_changed_file_is_decoded_again(ann_file, decoded, keep_times):
    name = read(ann_file).category_name[0]
    content, status = ann_file.read_bytes(), ann_file.stat()
    changed = content.replace(b'"%b"' % name.encode(), b'"%b"' % name[::-1].encode())
    assert len(changed) == len(content)
    ann_file.write_bytes(changed)
    if keep_times:
        os.utime(ann_file, ns=(status.st_atime_ns, status.st_mtime_ns))
    for _ in range(2):
        assert read(ann_file).category_name[0] == name[::-1] != name
    assert len(decoded) == 2


@pytest.mark.parametrize("spoil", [lambda c: c[:-1], lambda c: c[:10], lambda c: b"hello" * 99])
def test_a_spoilt_cache_is_made_anew(ann_file, decoded, said, spoil):
    expected = read(ann_file)
    cache = cache_of(ann_file)
    # A new file: this process has the old one mapped.
    content = spoil(cache.read_bytes())
    cache.unlink()
    cache.write_bytes(content)
    assert_equal(read(ann_file), expected)
    assert len(decoded) == 2
    assert len(said) == 1
    assert "this cache is made anew" in said[0]
    read(ann_file)
    assert len(decoded) == 2


def test_where_a_cache_lies(ann_file, home, tmp_path, monkeypatch, said):
    read(ann_file, cache=str(tmp_path / "chosen"))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "named"))
    read(ann_file)
    for folder in ("chosen", "named"):
        assert len(list((tmp_path / folder).glob("*-train.json.columns"))) == 1
    monkeypatch.setenv(CACHE_VARIABLE, "off")
    read(ann_file)
    assert not cache_of(ann_file).exists()
    assert not home.exists()
    assert said == []


def test_a_folder_that_cannot_be_written(ann_file, home, tmp_path, decoded, said):
    # Not even root can make a folder where a file is.
    cache_of(ann_file).parent.write_text("")
    expected = read(ann_file)
    assert_equal(read(ann_file), expected)
    assert len(decoded) == 1
    assert len(list(home.glob("*.columns"))) == 1
    assert said == []

    shutil.rmtree(home)
    home.write_text("")
    assert_equal(read(ann_file), expected)
    assert len(decoded) == 2
    assert len(said) == 1
    assert f"set {CACHE_VARIABLE} to a folder" in said[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder(ann_file, home):
    ann_file.parent.chmod(0o500)
    read(ann_file)
    assert len(list(home.glob("*.columns"))) == 1


def _start(ann_file, barrier, results):
    times = []

    def decode(path, name, decode=reader.decode_columns):
        times.append(path)
        return decode(path, name)

    reader.decode_columns = decode
    barrier.wait()
    columns = read(ann_file)
    results.put((len(times), int(columns.segmentation_text.sum()), columns.about()))


def test_ranks_that_start_together_decode_once(ann_file):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    ranks = [context.Process(target=_start, args=(ann_file, barrier, results)) for _ in range(4)]
    for rank in ranks:
        rank.start()
    found = [results.get(timeout=60) for _ in ranks]
    for rank in ranks:
        rank.join()
        assert rank.exitcode == 0
    expected = read(ann_file, cache=False)
    assert sum(times for times, _, _ in found) == 1
    assert {total for _, total, _ in found} == {expected.segmentation_text.sum()}
    assert all(about == expected.about() for _, _, about in found)
    assert sorted(path.suffix for path in cache_of(ann_file).parent.iterdir()) == [
        ".columns",
        ".lock",
    ]


def test_subsets_and_copies_share_the_mapped_file(minilvis, ann_file):
    dataset = LVISFormatDataset(ann_file=str(ann_file), data_prefix=dict(img=str(minilvis)))
    subset = dataset.get_subset([3, 1])
    text = dataset._annotations.columns.segmentation_text
    assert np.shares_memory(text, subset._annotations.columns.segmentation_text)
    assert len(dataset) == 60


def test_test_images_have_no_cache(ann_file):
    data = json.loads(ann_file.read_text())
    del data["annotations"]
    ann_file.write_text(json.dumps(data))
    assert read(ann_file, annotated=False).num_images == 60
    assert not cache_of(ann_file).exists()


@pytest.fixture(scope="module")
def cache_file(minilvis, tmp_path_factory):
    """A cache of its own, and its bytes."""
    columns = read_annotations(str(minilvis / "annotations" / "minilvis_val.json"), cache=False)
    path = tmp_path_factory.mktemp("cache") / "file"
    write_cache(path, {"version": 1}, columns)
    about, mapped = map_cache(path)
    assert about == {"version": 1}
    assert_equal(mapped, columns)
    assert all(array.flags.aligned for array in mapped.arrays().values())
    return path, path.read_bytes()


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_no_change_goes_unnoticed(cache_file, data):
    path, whole = cache_file
    spoilt = data.draw(spoilt_bytes(whole))
    path.unlink(missing_ok=True)
    path.write_bytes(spoilt)
    if spoilt == whole:
        map_cache(path)
    else:
        with pytest.raises(CacheFileError, match="cut off"):
            map_cache(path)


def test_objects_are_not_read(cache_file):
    path, whole = cache_file
    content = whole[:-4].replace(b"'<f8'", b"'|O' ")
    # The checksum is right; an array of pickles is refused all the same.
    path.write_bytes(content + zlib.crc32(content).to_bytes(4, "little"))
    with pytest.raises(CacheFileError, match="invalid: an array of objects"):
        map_cache(path)
