# Two commands on a fresh machine (Python >= 3.10): each makes its own environment in .venv, installs, and runs.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

.PHONY: demo test lint

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

demo: $(BIN)/.installed  ## the main job: a shortcut learned and unlearned, on the embedded data
	$(BIN)/accelerate launch --num_processes 1 recipes/train_cls.py --compare --output_dir out/demo

test: $(BIN)/.installed lint  ## lint, types, and every test that is not marked slow or gpu
	$(BIN)/python -m pytest -n auto --maxprocesses 4

lint: $(BIN)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
