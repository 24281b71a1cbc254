"""The README's figures are those of the stored results."""

from benchmarks import write_results as benchmark_table
from benchmarks.localization import table as wsol_table


def test_the_tables_are_what_the_stored_results_say():
    """`python -m benchmarks.write_results --write` makes them anew."""
    for page in benchmark_table.PAGES:
        assert benchmark_table.filled(page.read_text()) == page.read_text(), page.name


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
