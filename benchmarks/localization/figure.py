"""The same test photos under every method of the localization benchmark: map, box (green), true box (red).

    python -m benchmarks.localization.figure --data DATA

after `python -m benchmarks.localization.run` has left the checkpoints of seed 0, with the plans `headline` and
`objects`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import AutoImageProcessor, AutoModelForImageClassification

from benchmarks.localization import run as benchmark_wsol
from benchmarks.localization import table as wsol_table
from benchmarks.localization.plan import SIZES, Run
from benchmarks.tables import RESULTS, load
from hf_pgg.cli.options import parse_options, run_recipe
from hf_pgg.data.loading import open_dataset
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.reports.localization_figures import localization_figure


@dataclass
class Arguments:
    data: str = field(metadata={"help": "Folder of the data sets and checkpoints."})
    output: str = field(default=str(RESULTS / "localization.jpg"), metadata={"help": "Image to write."})
    images: int = field(default=8, metadata={"help": "Test photos shown, evenly spaced."})


def main() -> None:
    (arguments,) = parse_options({"options": Arguments}, description=__doc__)
    test = open_dataset(f"{arguments.data}/oxford-pets-37", "test")
    records = {tuple(record["run"].items()): record for record in load(wsol_table.WSOL, Run)}
    shown = {}
    for run in sorted(benchmark_wsol.FIGURED, key=wsol_table.place):
        folder, record = benchmark_wsol.kept(run), records.get(tuple(vars(run).items()))
        if run.seed == 0 and folder.exists() and record is not None:
            model = AutoModelForImageClassification.from_pretrained(folder)
            spec = InputSpec.from_processor(AutoImageProcessor.from_pretrained(folder), SIZES["cnn"])
            shown[wsol_table.title(vars(run))] = (model, spec, record["localization"])
    if not shown:
        raise ValueError(
            f"no checkpoints under {benchmark_wsol.KEPT}: run the plan headline of benchmarks.localization.run first"
        )
    figure = localization_figure(shown, test, smoothing=0.05, count=arguments.images)
    figure.savefig(arguments.output, dpi=110)
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    run_recipe(main)
