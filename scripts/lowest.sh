#!/bin/sh
# Runs the core tests with the lowest releases that pyproject.toml allows. Repeat it at every change of a bound.
#
#   scripts/lowest.sh [FOLDER]      the environment's folder, by default .venv-lowest
set -eu
cd "$(dirname "$0")/.."
folder=${1:-.venv-lowest}
uv venv --python 3.10 "$folder"
VIRTUAL_ENV="$folder" uv pip install --python "$folder/bin/python" --resolution lowest-direct -e . "pytest>=8" "pytest-xdist>=3.5"
"$folder/bin/python" -m pytest -q -n 2 tests/guidance tests/data tests/synthesis tests/training tests/distributed
