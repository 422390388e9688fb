# Sourced by the launchers: sets PYTHON to the active environment's interpreter, or without one to
# that of the .venv that tools/setup_env.sh makes.
if [[ -z "${PYTHON:-}" ]]; then
  venv_python="$(dirname "${BASH_SOURCE[0]}")/../../.venv/bin/python"
  if [[ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" && -x "$venv_python" ]]; then
    PYTHON="$venv_python"
  else
    PYTHON=python
  fi
fi
