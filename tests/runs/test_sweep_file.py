"""What sweep files ask for, and which are refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdet_eql.runs.sweep_file import entries_of, parse_grid, parse_values, read_sweep_file
from mmdet_eql.utils.errors import UserError


def entries(**spec):
    return entries_of(spec, "sweep.yaml")


def test_a_grid_has_every_combination():
    found = entries(
        config=["configs/a.py", "configs/b.py"],
        options={"x.y": 1},
        grid={"lr": [0.1, 0.2], "depth": [18, 50, 101]},
        seeds=[0, 1],
    )
    assert len(found) == 2 * 2 * 3 * 2
    assert len({str(entry) for entry in found}) == len(found)
    first, second, third = found[:3]
    assert (first.label, first.config, first.seed) == ("a", "configs/a.py", 0)
    assert first.options == {"x.y": 1, "lr": 0.1, "depth": 18}
    assert second.seed == 1
    assert third.options["depth"] == 50
    assert found[-1].config == "configs/b.py"


def test_runs_take_over_what_is_common_and_may_differ():
    found = entries(
        options={"a": 1, "b": 1},
        grid={"lr": [0.1, 0.2]},
        seeds=[0, 1],
        runs=[
            {"config": "a.py"},
            {"config": "a.py", "name": "own", "options": {"b": 2}, "grid": {"lr": [3]}},
            {"config": "b.py", "seeds": [7], "load_from": "own"},
        ],
    )
    assert [entry.label for entry in found] == ["a"] * 4 + ["own"] * 2 + ["b"] * 2
    assert found[0].options == {"a": 1, "b": 1, "lr": 0.1}
    assert (found[4].options, found[4].differing) == ({"a": 1, "b": 2, "lr": 3}, ("lr",))
    assert [entry.seed for entry in found] == [0, 1, 0, 1, 0, 1, 7, 7]
    assert found[-1].load_from == "own"


def test_a_name_of_its_own_stands_for_the_options():
    run = {"config": "a.py", "name": "own", "options": {"b": 2}}
    (found,) = entries(runs=[run])
    assert found.differing == ()
    # Without a name, or where others have it, the options say which run it is.
    unnamed = {key: value for key, value in run.items() if key != "name"}
    assert [entry.differing for entry in entries(runs=[unnamed])] == [("b",)]
    found = entries(runs=[run, {"config": "a.py", "name": "own"}])
    assert [entry.differing for entry in found] == [("b",), ()]


@pytest.mark.parametrize("suffix", [".yaml", ".json", ".py"])
def test_kinds_of_files(tmp_path, suffix):
    path = tmp_path / f"sweep{suffix}"
    spec = {"config": "a.py", "grid": {"model.lr": [0.001, 2]}, "seeds": [0]}
    if suffix == ".py":
        path.write_text("".join(f"{key} = {value!r}\n" for key, value in spec.items()))
    else:
        path.write_text(json.dumps(spec))
    assert read_sweep_file(path) == spec


def test_a_base_is_inherited(tmp_path):
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "first.yaml").write_text(
        "options: {a: 1, b: 1}\nseeds: [0, 1]\nruns: [{config: a.py}]\n"
    )
    (tmp_path / "bases" / "second.json").write_text('{"_base_": "first.yaml", "options": {"b": 2}}')
    path = tmp_path / "sweep.yaml"
    path.write_text("_base_: bases/second.json\noptions: {c: 3}\nruns: [{config: c.py}]\n")
    assert read_sweep_file(path) == {
        "options": {"a": 1, "b": 2, "c": 3},
        "seeds": [0, 1],
        "runs": [{"config": "c.py"}],
    }


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("sweep.yaml", "reached again by its own _base_"),
        ("[a.yaml, b.yaml]", "give the path of one sweep file"),
        ("none.yaml", "none.yaml: cannot be read"),
    ],
)
def test_a_wrong_base_is_told(tmp_path, base, message):
    path = tmp_path / "sweep.yaml"
    path.write_text(f"_base_: {base}\nconfig: a.py\n")
    with pytest.raises(UserError, match=message):
        read_sweep_file(path)


def test_numbers_of_yaml_are_numbers(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("config: a.py\ngrid: {lr: [1e-3, 2.5E-4, 1e5, 0.1, 1, '1e-3', 1e, a1e3]}\n")
    values = read_sweep_file(path)["grid"]["lr"]
    assert values == [0.001, 0.00025, 100000.0, 0.1, 1, "1e-3", "1e", "a1e3"]
    assert isinstance(values[2], float)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(), min_size=1))
def test_values_of_the_command_line(values):
    assert parse_values(",".join(map(repr, values))) == values


def test_a_grid_of_the_command_line():
    assert parse_grid(["a.b=0.1,x", "c=[1,2],[3]", "d=true,null"]) == {
        "a.b": [0.1, "x"],
        "c": [[1, 2], [3]],
        "d": [True, None],
    }
    for wrong in ("a", "a=", "=1", "a=[1"):
        with pytest.raises(UserError):
            parse_grid([wrong])


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, "config is None; give a path"),
        ({"config": []}, "config is"),
        ({"config": "a.py", "sed": [1]}, "'sed' is no key of a sweep"),
        ({"config": "a.py", "grid": {"lr": 0.1}}, "grid.lr is 0.1; give a list of values"),
        ({"config": "a.py", "grid": {"lr": []}}, "give a list of values"),
        ({"config": "a.py", "grid": {"lr": "0.1"}}, "give a list of values"),
        ({"config": "a.py", "options": [1]}, "options is"),
        ({"config": "a.py", "options": {1: 2}}, "options is"),
        ({"config": "a.py", "seeds": 3}, "seeds is 3; give a list of whole numbers"),
        ({"config": "a.py", "seeds": [0.5]}, "give a list of whole numbers"),
        ({"config": "a.py", "seeds": [-1]}, "give a list of whole numbers"),
        ({"config": "a.py", "seeds": [True]}, "give a list of whole numbers"),
        ({"config": "a.py", "seeds": [1], "options": {"randomness.seed": 1}}, "leave one out"),
        ({"config": ["a.py", "b.py"], "name": "x"}, "for a run with one config"),
        ({"config": "a.py", "load_from": "a.pth"}, "which is the name of no other run"),
        ({"config": "a.py", "load_from": "a"}, "which is the name of no other run"),
        ({"config": "a.py", "load_from": 3}, "give the name of another run"),
        (
            {"runs": [{"config": "a.py", "options": {"a": 0}}], "grid": {"a": [1]}},
            "run 1: its options set a, and a grid sets it, too",
        ),
        ({"runs": []}, "runs is no list of runs"),
        ({"runs": "a.py"}, "runs is no list of runs"),
        ({"runs": ["a.py"]}, "run 1 is 'a.py'; give a mapping"),
        ({"runs": [{"config": "a.py"}], "config": "b.py"}, "'config' is no key"),
    ],
)
def test_what_is_wrong_is_one_sentence(spec, said):
    with pytest.raises(UserError, match=said) as error:
        entries(**spec)
    assert str(error.value).startswith("sweep.yaml")


@pytest.mark.parametrize("text", ["[1]", "a: [", "", "\0"])
def test_files_that_are_none(tmp_path, text):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"sweep\.yaml"):
        read_sweep_file(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_sweep_file(tmp_path)
