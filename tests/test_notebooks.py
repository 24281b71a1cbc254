"""The notebooks run from a clean kernel, offline, and are committed with what they printed."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_ran(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert notebook.cells[0].cell_type == "markdown", "it begins with what one will see"
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run once, from top to bottom"
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any(kind.startswith("image/") for output in outputs for kind in output.get("data", {}))
    assert path.stat().st_size < 2_000_000


def run(notebook: nbformat.NotebookNode, folder: Path) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip())


LONG = ("03_localization", "04_clip_and_tube")  # minutes each, even with few steps: they measure maps
SHORT_RUNS = [pytest.param(path, marks=pytest.mark.slow if path.stem in LONG else ()) for path in NOTEBOOKS]


@pytest.mark.parametrize("path", SHORT_RUNS, ids=lambda path: path.stem)
def test_every_cell_of_a_notebook_runs_from_a_clean_kernel(path: Path, tmp_path: Path) -> None:
    """With a few steps where it says hundreds, the quick ones with every change; whole with `pytest -m notebook`."""
    notebook = nbformat.read(path, as_version=4)
    shortened = 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source, count = re.subn(r"(max_steps=|STEPS = )\d+", r"\g<1>6", cell.source)
            shortened += count
    assert shortened == 1, "the one number that says how long it trains"
    run(notebook, tmp_path)


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_whole(path: Path, tmp_path: Path) -> None:
    run(nbformat.read(path, as_version=4), tmp_path)
