"""What setup.cfg declares is what the package imports."""

import ast
import configparser
import importlib
import pkgutil
import re
import sys
from importlib import metadata
from pathlib import Path

import mmdet_eql

ROOT = Path(__file__).parents[1]
#: Not declared, since each goes by several names of distributions; see setup.cfg.
STACK = {"torch", "mmcv", "mmdet", "mmengine", "cv2"}


def normalized(requirement: str) -> str:
    """The name of a requirement as the package index compares it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def declared() -> set[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split()
    for extra in config["options.extras_require"].values():
        lines += extra.split()
    return {normalized(line) for line in lines}


def imported() -> dict[str, Path]:
    """The top-level packages that some file imports, also within functions."""
    found = {}
    for path in (ROOT / "mmdet_eql").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module] if isinstance(node, ast.ImportFrom) else []
            found.update({name.partition(".")[0]: path for name in names})
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names}


def test_what_is_imported_is_declared_and_the_reverse():
    distributions = metadata.packages_distributions()
    used = set()
    for name, path in imported().items():
        if name not in STACK | {"mmdet_eql"}:
            names = {normalized(each) for each in distributions[name]}
            assert names & declared(), f"{path} imports {name}, which setup.cfg does not declare"
            used |= names
    assert declared() <= used


def test_what_is_declared_has_a_range():
    files = [ROOT / "requirements.txt", ROOT / "requirements" / "merge.txt"]
    lines = "\n".join(path.read_text(encoding="utf-8") for path in files).splitlines()
    assert declared() <= {normalized(line) for line in lines if re.match(r"[\w-]+>=", line)}


def test_every_module_can_be_imported():
    modules = [module.name for module in pkgutil.walk_packages(mmdet_eql.__path__, "mmdet_eql.")]
    assert len(modules) > 50
    for module in modules:
        importlib.import_module(module)
