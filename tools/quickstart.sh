#!/usr/bin/env bash
# The environment, then a comparison on MiniLVIS: bash tools/quickstart.sh [--help]
set -euo pipefail
tools="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

[[ " $* " == *" --help "* || " $* " == *" -h "* ]] && exec python3 "$tools/run_study.py" --help
bash "$tools/setup_env.sh"
exec "$tools/../.venv/bin/python" "$tools/run_study.py" quickstart "$@"
