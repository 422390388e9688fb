"""Print the requirements that this Python environment does not meet, ready for ``pip install``.

    python tools/dev/env/missing_requirements.py [--pins FILE] REQUIREMENT_FILE...

A requirement file holds one requirement with its tested range per line. A comment
``# or: NAME>=...`` behind it names a package that fills the same import package
(``opencv-python`` and ``opencv-python-headless`` are both ``cv2``): where that one is installed,
it serves, and installing ours over it would leave a mixture of both.

With ``--pins`` an installed version has to be the pinned one. Nothing is imported but the standard
library and what comes with pip, so it runs in an environment that was just made.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

try:
    from packaging.requirements import Requirement
except ModuleNotFoundError:
    from pip._vendor.packaging.requirements import Requirement

ALTERNATIVE = re.compile(r"#\s*or:\s*(\S+)\s*$")


class ConflictError(Exception):
    """What is installed can neither be used nor be replaced; the message is for the user."""


def read_requirements(path: Path) -> Iterator[tuple[Requirement, Requirement | None]]:
    """Yield each requirement of a file and the alternative to it, if one is named.

    Lines with options for pip, such as ``-c constraints.txt``, are passed over, and so are
    requirements whose environment marker does not hold here.
    """
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if not text or text.startswith("-"):
            continue
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        alternative = ALTERNATIVE.search(line)
        yield requirement, Requirement(alternative[1]) if alternative else None


def read_pins(path: Path) -> dict[str, str]:
    """Return the pinned version of each package, by normalized name."""
    pins = {}
    for requirement, _ in read_requirements(path):
        (specifier,) = requirement.specifier
        pins[normalized(requirement.name)] = specifier.version
    return pins


def normalized(name: str) -> str:
    """Return a package name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_version(name: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def missing(files: Iterable[Path], pins: dict[str, str] | None = None) -> list[str]:
    """Return what has to be installed to meet all the requirements of some files.

    Args:
        files (Iterable[Path]): Requirement files.
        pins (dict[str, str], optional): The versions to install. Without them any version in a
            requirement's range will do.

    Returns:
        list[str]: Requirements: pinned with ``pins``, with their range otherwise.

    Raises:
        ConflictError: An installed alternative to a requirement is outside its range.
    """
    wanted = []
    for path in files:
        for requirement, alternative in read_requirements(path):
            if alternative is not None:
                version = installed_version(alternative.name)
                if version is not None:
                    if alternative.specifier.contains(version, prereleases=True):
                        continue
                    raise ConflictError(
                        f"{alternative.name} {version} is installed in {sys.prefix}, but only "
                        f"{alternative} is supported: change it, or uninstall it to get "
                        f"{requirement.name} instead."
                    )
            if pins is not None:
                pin = pins[normalized(requirement.name)]
                requirement = Requirement(f"{requirement.name}=={pin}")
            version = installed_version(requirement.name)
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                wanted.append(str(requirement))
    return wanted


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Print the requirements that this Python environment does not meet."
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="REQUIREMENT_FILE")
    parser.add_argument("--pins", type=Path, metavar="FILE", help="the versions to install")
    args = parser.parse_args()
    try:
        found = missing(args.files, read_pins(args.pins) if args.pins else None)
    except ConflictError as error:
        sys.exit(str(error))
    for requirement in found:
        print(requirement)


if __name__ == "__main__":
    main()
