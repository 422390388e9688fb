"""Which private names of other packages are used, and whether they are still what was read."""

import ast
import hashlib
import importlib
import importlib.metadata
import inspect
import pkgutil
from pathlib import Path

import pytest

import mmdet_eql
from mmdet_eql.engine.private_names import PRIVATE_NAMES

PACKAGE = Path(mmdet_eql.__file__).parent
#: Set by ``_load_metainfo`` and ``full_init``, which are listed.
ATTRIBUTES = {"_metainfo", "_fully_initialized"}
LISTED = {name.rpartition(".")[2] for name in PRIVATE_NAMES} | ATTRIBUTES


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def bound_names(tree: ast.AST) -> set[str]:
    """What a file defines: functions, classes, variables and attributes."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return names


def test_all_that_are_used_are_listed():
    trees = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    ours = set().union(*map(bound_names, trees.values()))
    for path, tree in trees.items():
        for node in ast.walk(tree):
            used = [node.attr] if isinstance(node, ast.Attribute) else []
            if isinstance(node, ast.ImportFrom) and not node.module.startswith("mmdet_eql"):
                used = [alias.name for alias in node.names]
            for name in filter(is_private, used):
                assert name in ours | LISTED, f"{path}:{node.lineno}: {name}"


def test_all_that_are_overridden_are_listed():
    for module in pkgutil.walk_packages(mmdet_eql.__path__, "mmdet_eql."):
        for cls in vars(importlib.import_module(module.name)).values():
            if not inspect.isclass(cls) or cls.__module__ != module.name:
                continue
            ours = [base for base in cls.__mro__ if base.__module__.startswith("mmdet_eql")]
            of_others = set(cls.__mro__) - set(ours)
            for base in ours:  # a mixin overrides what the class inherits after it
                for name in filter(is_private, vars(base)):
                    method = inspect.isfunction(vars(base)[name])
                    if method and any(name in vars(other) for other in of_others):
                        assert name in LISTED, f"{base.__name__}.{name} in {cls.__name__}"


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_they_are_what_was_read(name):
    used_in, _, package, known = PRIVATE_NAMES[name]
    distribution, version = package.split()
    try:
        installed = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{distribution} is not installed")
    module, cls, method = name.rsplit(".", 2)
    source = inspect.getsource(getattr(getattr(importlib.import_module(module), cls), method))
    digest = hashlib.sha256(source.encode()).hexdigest()[:8]
    assert digest == known, (
        f"{name} of {distribution} {installed} is not that of {version}: read it and {used_in} "
        f"again, then note the version and {digest}."
    )
