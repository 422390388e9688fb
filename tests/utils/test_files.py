"""Files appear whole or not at all."""

import pytest

from mmdet_eql.utils.errors import UserError
from mmdet_eql.utils.files import atomic_write


def test_the_file_and_its_folder_appear(tmp_path):
    path = tmp_path / "new" / "table.md"
    with atomic_write(path) as unfinished:
        unfinished.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError, SystemExit])
def test_an_interruption_leaves_what_was_there(tmp_path, interruption):
    path = tmp_path / "table.md"
    path.write_text("before")
    with pytest.raises(interruption), atomic_write(path) as unfinished:
        unfinished.write_text("ha")
        raise interruption
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_and_a_folder_in_the_way_are_sentences(tmp_path):
    with (
        pytest.raises(UserError, match=r"table\.md: cannot be written .*; choose 'there' or free"),
        atomic_write(tmp_path / "table.md", "choose 'there'") as unfinished,
    ):
        unfinished.write_text("ha")
        with open("/dev/full", "w") as full:
            full.write("ha")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "taken").mkdir()
    with (
        pytest.raises(UserError, match="taken: cannot be written"),
        atomic_write(tmp_path / "taken") as unfinished,
    ):
        unfinished.write_text("ha")
