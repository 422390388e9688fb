import pytest
from matplotlib.figure import Figure

from mmdet_eql.utils.figure_file import save_figure


@pytest.mark.parametrize(
    ("name", "beginning"),
    [("a.png", b"\x89PNG"), ("a", b"\x89PNG"), ("a.PDF", b"%PDF"), ("a.svg", b"<?xml")],
)
def test_the_name_says_the_format(name, beginning, tmp_path):
    save_figure(Figure(), tmp_path / "new" / name)
    assert (tmp_path / "new" / name).read_bytes().startswith(beginning)
