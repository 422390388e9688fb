#!/usr/bin/env bash
# Reproduces the tables of docs/evidence.md: bash tools/run_study.sh STUDY [OPTION...]; --help tells more.
# The environment must be active or in .venv; PYTHON names another interpreter.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/misc/launch.sh"
exec "$PYTHON" "$tools/run_study.py" "$@"
