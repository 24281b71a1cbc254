# Two commands on a fresh machine (Python >= 3.10): each makes its own environment in .venv, installs, and runs.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

.PHONY: demo test lint notebooks docs lowest

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

demo: $(BIN)/.installed  ## the main job: a shortcut learned and unlearned, on the embedded data
	$(BIN)/accelerate launch --num_processes 1 recipes/train_cls.py --compare --output_dir out/demo

test: $(BIN)/.installed lint docs  ## lint, types, import contracts, docstring examples, tests, and the documentation
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup

notebooks: $(BIN)/.installed  ## runs every notebook from a clean kernel (minutes)
	$(BIN)/python -m pytest -m notebook tests/test_notebooks.py

docs: $(BIN)/.installed  ## the documentation, to out/docs; a broken link or reference is an error
	$(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky --quiet --doctree-dir out/doctrees docs out/docs

lint: $(BIN)/.installed  ## lint, types, and what may import what
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lowest:  ## the core tests with the lowest releases that pyproject.toml allows, in an environment of their own; needs uv
	scripts/lowest.sh
