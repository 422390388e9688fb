"""The contract between the rooms of the package: who may import whom, how large a file may be, and
that each room lists its files."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: What each room (a folder or a file of the package) may import, from the lowest to the highest.
MAY_IMPORT = {
    "utils": "",
    "frequency": "utils",
    "annotations": "utils frequency",
    "datasets": "utils frequency annotations",
    "evaluation": "utils frequency annotations",
    "minilvis": "utils frequency annotations",
    "losses": "utils",
    "heads": "utils losses",
    "engine": "utils frequency losses",
    "decoupled": "utils frequency annotations datasets evaluation losses heads engine",
    "runs": "utils frequency engine decoupled",
    "analysis": "utils frequency annotations datasets evaluation engine runs",
    "classification": "utils frequency datasets minilvis losses engine",
}
#: Not for evaluation, but for the metrics that a config names (``*_metric.py``).
FRAMEWORKS = {"torch", "mmdet", "mmcv", "mmengine"}
MOST_LINES = 400


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path for path in sorted((ROOT / "mmdet_eql").rglob("*.py"))}


def imports(path: Path, nested: bool = True) -> set[str]:
    """Return the files of the package that a file imports, and the top names of other modules.

    Without ``nested``, imports inside functions and the like are left out.
    """
    names = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if nested else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name"
            # `from a import b` imports a.b if that is a module.
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in FILES else node.module for name in full}
    return {name if name in FILES else name.split(".")[0] for name in names}


IMPORTS = {name: imports(path) for name, path in FILES.items()}


def room(name: str) -> str:
    return name.split(".")[1]


def test_the_contract_goes_down_only():
    rooms = list(MAY_IMPORT)
    for index, (name, allowed) in enumerate(MAY_IMPORT.items()):
        assert set(allowed.split()) <= set(rooms[:index]), name
    assert set(rooms) == {room(name) for name in FILES if "." in name}


def test_rooms_import_what_the_contract_allows():
    forbidden = [
        f"{name} -> {target}"
        for name, targets in IMPORTS.items()
        for target in targets
        if name.startswith("mmdet_eql.")
        and target.startswith("mmdet_eql.")
        and room(target) not in (room(name), *MAY_IMPORT[room(name)].split())
    ]
    assert not forbidden


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: {t for t in targets if t in FILES} for name, targets in IMPORTS.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_the_package_needs_neither_tools_nor_tests():
    for name, targets in IMPORTS.items():
        assert not targets & {"tools", "tests"}, name


def test_evaluation_needs_no_framework():
    """Nor does what it imports, but for mmengine inside functions: its log, its file backends."""
    evaluation = {name for name in FILES if name.startswith("mmdet_eql.evaluation.")}
    reached, found = set(), {name for name in evaluation if not name.endswith("_metric")}
    while found:
        reached |= found
        found = set().union(*(IMPORTS[name] for name in found)) & FILES.keys() - reached
    for name in reached:
        allowed = set() if name in evaluation else {"mmengine"}
        assert not IMPORTS[name] & FRAMEWORKS - allowed, name
        assert not imports(FILES[name], nested=False) & FRAMEWORKS, name


def test_no_file_is_too_long():
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in FILES.items()}
    assert not {name: number for name, number in lines.items() if number > MOST_LINES}


def test_each_room_lists_its_files():
    """In the docstring of its ``__init__``, as ``file  subject`` and ``folder/  subject``."""
    for name, path in FILES.items():
        if path.name == "__init__.py":
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            listed = re.findall(r"^ *(\w+)/?  +\S", text, re.MULTILINE)
            files = [item.stem for item in path.parent.glob("*.py") if item != path]
            folders = [item.parent.name for item in path.parent.glob("*/__init__.py")]
            assert sorted(listed) == sorted(files + folders), name
