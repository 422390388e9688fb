"""Finding and reading the experiments below a folder of configs.

An experiment is a config that is run; what several share lies in folders called ``_base_``.
"""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import mmengine.config.utils
from mmengine.config import Config

#: Name of the folders of parts that experiments are composed of.
PARTS = "_base_"


def find_experiments(folder: str | os.PathLike) -> list[Path]:
    """The experiments below a folder, sorted by path.

    Args:
        folder (str | os.PathLike): A folder of configs.

    Returns:
        list[Path]: All Python files that do not lie in a ``_base_``.
    """
    folder = Path(folder)
    return sorted(
        path for path in folder.rglob("*.py") if PARTS not in path.relative_to(folder).parts
    )


class ConfigReader:
    """Reads many configs in a fraction of the time.

    For every config, MMEngine runs all files that it inherits anew, and for each base that another
    package holds (``mmdet::...``) it parses all metafiles of that package. Here each file is run,
    and each metafile parsed, once. The configs are the same.

    Example:
        >>> reader = ConfigReader()
        >>> [reader.read(path).model.type for path in find_experiments("configs/eqlv2")]
        ... # doctest: +SKIP
        ['MaskRCNN', 'MaskRCNN']
    """

    def __init__(self) -> None:
        self._run_file = _cached(Config._file2dict)
        self._load = _cached(mmengine.config.utils.load)

    def read(self, path: str | os.PathLike) -> Config:
        """Read a config.

        Args:
            path (str | os.PathLike): The config.

        Returns:
            Config: The merged config.
        """
        with (
            mock.patch.object(Config, "_file2dict", staticmethod(self._run_file)),
            mock.patch.object(mmengine.config.utils, "load", self._load),
        ):
            return Config.fromfile(path)


def _cached(function: Callable) -> Callable:
    """Call a function of a path once for each path, and give copies of what it returned."""
    results = {}

    def call(filename: str, *args: Any, **kwargs: Any) -> Any:
        if filename not in results:
            results[filename] = function(filename, *args, **kwargs)
        return copy.deepcopy(results[filename])

    return call
