"""The modules of tools/dev/benchmarks, which import each other as scripts do."""

import sys

from tests.conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tools" / "dev" / "benchmarks"))
