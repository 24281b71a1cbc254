# Two commands on a fresh machine (Python >= 3.10): each makes its own environment in .venv, installs, and runs.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin

.PHONY: demo test lint notebooks docs

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

demo: $(BIN)/.installed  ## the main job: a shortcut learned and unlearned, on the embedded data
	$(BIN)/accelerate launch --num_processes 1 recipes/train_cls.py --compare --output_dir out/demo

test: $(BIN)/.installed lint  ## lint, types, and every test that is not marked slow or gpu
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup

notebooks: $(BIN)/.installed  ## runs every notebook from a clean kernel (minutes)
	$(BIN)/python -m pytest -m notebook tests/test_notebooks.py

docs: $(BIN)/.installed  ## the API reference, from the docstrings, to out/api
	$(BIN)/python -m pdoc --docformat google --output-directory out/api hf_pgg \
	    $$(find hf_pgg -name '*.py' ! -name '_*' ! -path 'hf_pgg/metrics/*/*' | sort | sed 's/\.py$$//; s,/,.,g')

lint: $(BIN)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
