"""Arrays in a file: written and mapped again, and refused when the file is not what was written."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from mmdet_eql.annotations.column_file import ColumnFileError, map_columns, write_columns
from tests.fuzz.mutations import spoilt_bytes

DTYPES = st.sampled_from([np.float64, np.int64, np.int32, np.uint8, np.bool_])
ARRAYS = st.dictionaries(
    st.text(min_size=1, max_size=5),
    DTYPES.flatmap(
        lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=1, min_side=0))
    ),
    max_size=4,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("columns") / "file"


def write(path, about, arrays) -> bytes:
    file = io.BytesIO()
    write_columns(file, about, arrays)
    path.write_bytes(file.getvalue())
    return file.getvalue()


@settings(max_examples=40, deadline=None)
@given(arrays=ARRAYS, about=st.dictionaries(st.text(), st.integers() | st.text()))
def test_what_was_written_is_mapped(path, arrays, about):
    write(path, about, arrays)
    mapped_about, mapped = map_columns(path)
    assert mapped_about == about
    assert list(mapped) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(mapped[name], array, strict=True)
        assert not mapped[name].flags.writeable
        assert not mapped[name].flags.owndata


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_no_change_goes_unnoticed(path, data):
    whole = write(path, {"version": 1}, {"a": np.arange(20), "b": np.linspace(0, 1, 7)})
    spoilt = data.draw(spoilt_bytes(whole))
    path.write_bytes(spoilt)
    if spoilt == whole:
        map_columns(path)
    else:
        with pytest.raises(ColumnFileError):
            map_columns(path)


def test_objects_are_not_read(path):
    content = write(path, {}, {"a": np.zeros(1)}).replace(b'"<f8"', b'"|O" ')
    # The checksum is right; an array of pickles is refused all the same.
    content = content[:8] + struct.pack("<I", zlib.crc32(content[12:])) + content[12:]
    path.write_bytes(content)
    with pytest.raises(ColumnFileError, match="makes no sense"):
        map_columns(path)


def test_the_wrong_kind_of_file_is_named(path):
    path.write_bytes(b"")
    with pytest.raises(ColumnFileError, match="cut off"):
        map_columns(path)
    path.write_bytes(b"x" * 100)
    with pytest.raises(ColumnFileError, match="another kind"):
        map_columns(path)
