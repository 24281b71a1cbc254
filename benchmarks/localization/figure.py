"""The same test photos under every method of the localization benchmark: map, box (green), true box (red).

    python benchmarks/localization/figure.py --data DATA

after `benchmark_wsol.py --plan headline` and `--plan objects` have left their checkpoints of seed 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import train_wsol
from transformers import AutoImageProcessor, AutoModelForImageClassification, HfArgumentParser

from benchmarks.localization import run as benchmark_wsol
from benchmarks.localization import table as wsol_table
from benchmarks.localization.plan import SIZES, Run
from benchmarks.tables import RESULTS, load
from hf_pgg.data.preprocessing import InputSpec


@dataclass
class Arguments:
    data: str = field(metadata={"help": "Folder of the data sets and checkpoints."})
    output: str = field(default=str(RESULTS / "localization.jpg"), metadata={"help": "Image to write."})
    images: int = field(default=8, metadata={"help": "Test photos shown, evenly spaced."})


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    task = train_wsol.LocalizationArguments(dataset_name=f"{arguments.data}/oxford-pets-37")
    test = train_wsol.open_dataset(task.dataset_name, "test")
    records = {tuple(record["run"].items()): record for record in load(wsol_table.WSOL, Run)}
    shown = {}
    for run in sorted(benchmark_wsol.FIGURED, key=wsol_table.place):
        folder, record = benchmark_wsol.kept(run), records.get(tuple(vars(run).items()))
        if run.seed == 0 and folder.exists() and record is not None:
            model = AutoModelForImageClassification.from_pretrained(folder)
            spec = InputSpec.from_processor(AutoImageProcessor.from_pretrained(folder), SIZES["cnn"])
            shown[wsol_table.title(vars(run))] = (model, spec, record["localization"])
    if not shown:
        raise SystemExit(f"no checkpoints under {benchmark_wsol.KEPT}: run benchmark_wsol.py --plan headline first")
    figure = train_wsol.comparison_figure(shown, test, task, arguments.images)
    figure.savefig(arguments.output, dpi=110)
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
