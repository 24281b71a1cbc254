"""The figures of the documentation are those of the stored results."""

import re
from pathlib import Path

import pytest

from benchmarks import write_results
from benchmarks.localization import table as wsol_table

MARKER = re.compile(r"<!-- table (\S+) -->")


@pytest.mark.parametrize("page", write_results.PAGES, ids=lambda page: page.stem)
def test_the_tables_are_what_the_stored_results_say(page: Path):
    """`python -m benchmarks.write_results --write` makes them anew."""
    text = page.read_text()
    assert write_results.filled(text) == text


def test_every_marker_names_a_table_and_every_table_stands_somewhere():
    found = [name for page in write_results.PAGES for name in MARKER.findall(page.read_text())]
    assert set(found) <= set(write_results.TABLES)
    assert set(write_results.TABLES) - set(found) <= {"pets-a-vit"}  # no run of it is stored


def test_every_stored_result_names_its_seed_versions_and_device():
    for path in (write_results.PETS, write_results.SEARCH):
        for record in write_results.load(path, write_results.Run):
            assert isinstance(record["run"]["seed"], int)
            assert {"hf_pgg", "torch", "transformers"} <= set(record["versions"])
            assert record["device"]


def test_every_localization_result_names_its_seed_versions_and_device():
    for path in (wsol_table.WSOL, wsol_table.SEARCH):
        for record in wsol_table.load(path, wsol_table.Run):
            assert isinstance(record["run"]["seed"], int)
            assert {"hf_pgg", "torch", "transformers"} <= set(record["environment"]["versions"])
            assert record["environment"]["device"]
