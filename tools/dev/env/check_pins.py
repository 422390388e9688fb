"""Compare the packages of this environment with requirements/constraints.txt.

    python tools/dev/env/check_pins.py

Prints what is missing, has another version or is not named there, and fails if there is any.
"""

import sys
from importlib import metadata
from pathlib import Path

from missing_requirements import installed_version, normalized, read_pins

CONSTRAINTS = Path(__file__).parents[3] / "requirements" / "constraints.txt"
#: What the environment itself is made of, and the project.
WITHOUT_PIN = {"pip", "mmdet-eql"}


def differences(pins: dict[str, str], installed: set[str]) -> list[str]:
    """What an environment has against its pins, a sentence each.

    Args:
        pins (dict[str, str]): Versions by normalized name.
        installed (set[str]): Normalized names of all packages of the environment.
    """
    found = []
    for name, pin in sorted(pins.items()):
        version = installed_version(name)
        if version is None:
            found.append(f"{name}=={pin} is not installed")
        # A build of PyTorch adds its platform: 2.13.0+cpu.
        elif version.partition("+")[0] != pin.partition("+")[0]:
            found.append(f"{name} is {version}, but {pin} is pinned")
    unpinned = sorted(installed - set(pins) - WITHOUT_PIN)
    return found + [f"{name} {installed_version(name)} is not pinned" for name in unpinned]


def main() -> None:
    installed = {normalized(package.metadata["Name"]) for package in metadata.distributions()}
    pins = read_pins(CONSTRAINTS)
    found = differences(pins, installed)
    for sentence in found:
        print(sentence)
    if found:
        sys.exit(f"{len(found)} packages differ from {CONSTRAINTS}")
    print(f"all {len(pins)} packages are as pinned")


if __name__ == "__main__":
    main()
