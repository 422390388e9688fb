"""Ways to spoil a file: values of JSON that nobody expects, and bytes that changed on their way."""

import copy
import json

from hypothesis import strategies as st

#: What a field may hold in a file that someone else wrote.
VALUES = [
    *(None, True, False, 0, 1, -1, 2, 7, 10**9, 2**63, -(2**63), 10**400),
    *(0.5, -0.0, 1e-300, 1e300, float("nan"), float("inf"), -float("inf")),
    *("", "0", "name", "\u0000", "\ud800", "\u202e\U0001f600", "../../etc/passwd", "/etc/passwd"),
    *("a" * 5000, [], [[]], [None], {}, {"id": 1}),
    *([0, 0, 0, 0], [-50, -50, 10, 10], [0, 0, 1e9, 1e9], [1, 2, 3], ["1", "2", "3", "4"]),
    *([[1, 2]], [[0, 0, 5, 0, 5, 5]], [[float("nan")] * 6], [[1e300] * 6]),
    *({"size": [96, 96], "counts": "abc"}, {"size": [1, 1], "counts": [1]}),
    *({"size": [96, 96], "counts": [9216]}, {"size": [-1, 2**40], "counts": [0, 3]}),
    {"size": [96, 96], "counts": "\u00ff" * 40},
]
VALUES = [value for value in VALUES if not isinstance(value, int) or abs(value) < 10**300]
#: And in a config, which can ask for a billion layers.
CONFIG_VALUES = [
    *(value for value in VALUES if not isinstance(value, int) or abs(value) < 100),
    *({"type": "name"}, {"type": None}, {"type": "Linear"}, {"_delete_": True}),
]


def places(value, path=()):
    """The paths of all values in some JSON."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        yield from places(inner, (*path, key))


@st.composite
def spoilt_json(draw, content, values=VALUES):
    """The bytes of a JSON file of which up to three values were replaced, doubled or dropped."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(content))[1:] or [()]))
        if not path:
            break
        owner = content
        for key in path[:-1]:
            owner = owner[key]
        action = draw(st.sampled_from(["replace", "replace", "replace", "drop", "double"]))
        if action == "replace":
            owner[path[-1]] = copy.deepcopy(draw(st.sampled_from(values)))
        elif action == "drop":
            del owner[path[-1]]
        elif isinstance(owner, list):
            owner.append(copy.deepcopy(owner[path[-1]]))
    return json.dumps(content).encode()


@st.composite
def spoilt_bytes(draw, content):
    """Some bytes, cut off, or with a few of them changed, inserted or removed."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        action = draw(st.sampled_from(["change", "cut", "insert", "remove"]))
        if action == "change":
            content[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif action == "cut":
            del content[at:]
        elif action == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            del content[at : at + draw(st.integers(1, 16))]
    return bytes(content)
