"""Print the installed packages that lack some of their files, as ``NAME==VERSION``.

An install that is broken off can leave a package that pip takes for installed, since pip looks at
the package's name and version only. ``tools/setup_env.sh`` asks here after such a run.
"""

import csv
import os
from importlib import metadata


def is_complete(package: metadata.Distribution) -> bool:
    """Tell whether all files of an installed package exist, with the sizes recorded for them."""
    # Not package.files: from Python 3.12 on it passes over files that are missing.
    record = package.read_text("RECORD")
    if record is None:  # pip writes it last
        return False
    for path, _, size in csv.reader(record.splitlines()):
        # Bytecode is written anew at will; the record itself comes without a size.
        if not size or path.endswith(".pyc"):
            continue
        try:
            if os.stat(package.locate_file(path)).st_size != int(size):
                return False
        except OSError:
            return False
    return True


def main() -> None:
    for package in metadata.distributions():
        # Without metadata yet it is no package to pip either.
        if package.read_text("METADATA") and not is_complete(package):
            print(f"{package.metadata['Name']}=={package.version}")


if __name__ == "__main__":
    main()
