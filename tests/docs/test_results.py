"""The README's figures are those of the stored results."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "recipes"))

from benchmarks import write_results as benchmark_table
from benchmarks.localization import table as wsol_table


def test_the_tables_are_what_the_stored_results_say():
    """`python benchmarks/write_results.py --write` makes them anew."""
    readme = (ROOT / "README.md").read_text()
    assert benchmark_table.filled(readme) == readme


def test_every_stored_result_names_its_seed_versions_and_device():
    for path in (benchmark_table.PETS, benchmark_table.SEARCH):
        for record in benchmark_table.load(path, benchmark_table.Run):
            assert isinstance(record["run"]["seed"], int)
            assert {"hf_pgg", "torch", "transformers"} <= set(record["versions"])
            assert record["device"]


def test_every_localization_result_names_its_seed_versions_and_device():
    for path in (wsol_table.WSOL, wsol_table.SEARCH):
        for record in wsol_table.load(path, wsol_table.Run):
            assert isinstance(record["run"]["seed"], int)
            assert {"hf_pgg", "torch", "transformers"} <= set(record["environment"]["versions"])
            assert record["environment"]["device"]
