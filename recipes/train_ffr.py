"""From-Fake-to-Real: balanced synthetic rows first, biased real rows second, beside the baselines that mix them.

    accelerate launch recipes/train_ffr.py --method erm groupdro --data real usb asb ffr --bias 0.99 --seeds 0 1
    accelerate launch recipes/train_ffr.py --dataset_name my/faces --synthetic_dataset my/generated --bias_column gender

One cell is a method on a data set at a bias and a seed; each appends a line to `results.jsonl`, a finished one is
skipped, and the table of all is printed. `docs/methods/from_fake_to_real.md` says what the methods and data are.

The embedded data: is a handwritten digit even or odd, on its class's own one of two photographs with the given bias.
**By default its synthetic rows are a stand-in, not a generator's**: training digits, pasted smaller and with softer
edges than the real ones. `train_pixel_generator.py` trains a generator:

    accelerate launch recipes/train_ffr.py --synthetic_dataset out/pixel_generator/images
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from transformers import set_seed

from hf_pgg import PGGTrainer
from hf_pgg.cli.arguments import ModelArguments, RecipeConfig
from hf_pgg.cli.options import parse_options, run_recipe
from hf_pgg.data import groups
from hf_pgg.data.groups import GROUP, add_groups
from hf_pgg.data.loading import open_dataset
from hf_pgg.data.provenance import IMAGE, PROVENANCE, guided_rows
from hf_pgg.demo_data import digits
from hf_pgg.demo_parity import SIZE, checkerboard, even_or_odd, paste_on_photographs, stand_in
from hf_pgg.generation.resumable import source_digest
from hf_pgg.metrics import group_accuracies, group_metrics
from hf_pgg.reports.comparison import append_record, read_records, settings_table, step_budget
from hf_pgg.reports.record import environment
from hf_pgg.training.debias import GroupDROTrainer, ResamplingTrainer
from hf_pgg.training.last_layer import refit_head
from hf_pgg.training.models import image_classifier
from hf_pgg.training.stages import evaluation_figures, finished_model, run_folder, stage_arguments, train_stage

METHODS = {"erm": PGGTrainer, "resample": ResamplingTrainer, "groupdro": GroupDROTrainer, "dfr": PGGTrainer}
DATA = ("real", "usb", "asb", "ffr")
COLUMNS = {"worst_group_accuracy": "worst group", "mean_group_accuracy": "mean of the groups"}


@dataclass
class DataArguments:
    dataset_name: str | None = field(default=None, metadata={"help": "Splits train, validation, test (embedded)."})
    synthetic_dataset: str | None = field(default=None, metadata={"help": "Synthetic rows of all groups, split train."})
    synthetic_artifact: int = field(default=0, metadata={"help": "Grey levels of a checkerboard on synthetic images."})
    bias_column: str = field(default="bias", metadata={"help": "ClassLabel that the label is tied to."})
    real_masks: bool = field(default=False, metadata={"help": "Embedded data: keep the masks of the real digits."})


@dataclass
class CellArguments:
    method: list[str] = field(default_factory=lambda: ["erm"], metadata={"help": "Training.", "choices": list(METHODS)})
    data: list[str] = field(default_factory=lambda: ["ffr"], metadata={"help": "Training rows.", "choices": DATA})
    bias: list[float] = field(default_factory=list, metadata={"help": "Majority's share of training rows (0.99)."})
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds of everything that is drawn."})
    guided: bool = field(default=False, metadata={"help": "Guide the rows that have provenance."})


@dataclass
class FFRConfig(RecipeConfig):
    output_dir: str | None = field(default="out/train_ffr", metadata={"help": "Folder that everything is written to."})
    num_train_epochs: float = field(default=10, metadata={"help": "Passes over real and synthetic rows together."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak step size of stage one and of the baselines."})
    stage_two_learning_rate: float = field(default=1e-5, metadata={"help": "Peak step size of FFR's stage two."})
    evaluations: int = field(default=6, metadata={"help": "Checkpoints of a stage that are compared on validation."})
    image_size: int | None = field(default=SIZE, metadata={"help": "Input size in pixels."})
    alpha: float = field(default=1.0, metadata={"help": "Weight of the guidance loss where `--guided`."})


class Cell(NamedTuple):
    method: str
    data: str
    bias: float | None
    guided: bool
    seed: int


Options = tuple[DataArguments, ModelArguments, FFRConfig]


def main() -> None:
    kinds = {"data": DataArguments, "cells": CellArguments, "model": ModelArguments, "guidance": FFRConfig}
    data_args, cells, model_args, config = parse_options(kinds, description=__doc__)
    if data_args.dataset_name and not data_args.synthetic_dataset and set(cells.data) != {"real"}:
        raise ValueError(f"--data {' '.join(cells.data)} needs --synthetic_dataset, rows of every (label, bias) group")
    torch.set_flush_denormal(True)  # guidance drives gradients near zero, and denormal floats are slow on a CPU
    results, options = Path(config.output_dir) / "results.jsonl", (data_args, model_args, config)
    biases = cells.bias or [None if data_args.dataset_name else 0.99]
    splits: dict[tuple[float | None, int], DatasetDict] = {}  # the real rows at hand: those of one bias and seed
    for bias, seed, data, method in product(biases, cells.seeds, cells.data, cells.method):
        cell = Cell(method, data, bias, cells.guided, seed)
        settings = settings_of(cell, options)
        if any(record["settings"] == settings for record in read_records(results)):
            print(f"{cell}: finished before", flush=True)
            continue
        if (bias, seed) not in splits:
            with config.main_process_first(desc="data"):
                splits = {(bias, seed): load_data(data_args, config, bias, seed)}
        record = run_cell(cell, splits[bias, seed], options)
        if config.process_index == 0:
            append_record(results, {"settings": settings, **record, "environment": environment()})
    if config.process_index == 0:
        print(settings_table(read_records(results), ("bias", "data", "method", "guided"), "test", COLUMNS))
        print("written:", results)


def settings_of(cell: Cell, options: Options) -> dict[str, Any]:
    """What a run depends on: equal settings, equal run."""
    data, model, config = options
    names = ["max_steps", "num_train_epochs", "train_batch_size", "gradient_accumulation_steps", "world_size", "optim"]
    names += ["learning_rate", "stage_two_learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "bf16"]
    names += ["evaluations", "image_size", "freeze_batch_norm", "label_column", "image_column", "max_grad_norm", "fp16"]
    names += ["label_smoothing_factor"]
    if cell.guided:
        names += ["alpha", "alpha_warmup_ratio", *(name for name in vars(config) if name.startswith("guidance_"))]
    synthetic = None
    if data.synthetic_dataset and cell.data != "real":  # a generator may have been trained again under the same name
        synthetic = source_digest(open_synthetic(data.synthetic_dataset, config.image_column), config.image_column)
    named = {name: getattr(config, name) for name in names}
    return {**cell._asdict(), **asdict(data), **asdict(model), **named, "synthetic_digest": synthetic}


def load_data(args: DataArguments, config: FFRConfig, bias: float | None, seed: int) -> DatasetDict:
    """Real rows: train (tied to the bias), validation and test."""
    embedded = args.dataset_name is None
    names = ("train", "validation", "test")
    known = {"label_column": config.label_column, "class_columns": [args.bias_column]}
    if embedded:
        splits = {name: even_or_odd(digits(name), args.bias_column) for name in names}
    else:
        splits = {name: open_dataset(args.dataset_name, name, **known) for name in names}
    if bias is not None:
        splits["train"] = groups.biased_split(splits["train"], config.label_column, args.bias_column, bias, seed)
    if embedded:
        splits = {name: paste_on_photographs(rows, args.bias_column, seed) for name, rows in splits.items()}
    bare = ["validation"] if args.real_masks or not embedded else ["train", "validation"]
    for name in bare:  # many evaluations choose a checkpoint: the target gradient share is that of the test rows
        splits[name] = splits[name].remove_columns([c for c in splits[name].column_names if c == PROVENANCE])
    for name, rows in splits.items():  # a worst group is measured over all; synthetic rows supply what training lacks
        for group in groups.missing_groups(rows, config.label_column, args.bias_column):
            problem = f"split {name} has no row of {group}"
            if name != "train":
                raise ValueError(f"{problem}: add some, or take the value out of its ClassLabel")
            print(problem, flush=True)
    columns = (config.image_column, config.label_column, args.bias_column)
    return DatasetDict({name: groups.mark_source(rows, "real", *columns) for name, rows in splits.items()})


def load_synthetic(real: Dataset, counts: np.ndarray, args: DataArguments, config: FFRConfig, seed: int) -> Dataset:
    """`counts` (labels, biases) synthetic rows, under the artifact that is asked for."""
    columns = (config.image_column, config.label_column, args.bias_column)
    if args.synthetic_dataset is None:
        rows = stand_in(digits("train"), counts, args.bias_column, seed)
    else:
        rows = open_synthetic(args.synthetic_dataset, config.image_column)
        for column in columns[1:]:
            ours, theirs = real.features[column], rows.features.get(column)
            if getattr(theirs, "names", None) != ours.names:
                raise ValueError(f"column '{column}' of {args.synthetic_dataset} is {theirs}, of the real rows {ours}")
        rows = groups.take_per_group(rows, counts, *columns[1:], seed)
    rows = groups.mark_source(rows, "synthetic", *columns)
    return checkerboard(rows, args.synthetic_artifact, config.image_column) if args.synthetic_artifact else rows


@lru_cache
def open_synthetic(name: str, image_column: str) -> Dataset:
    """Generated rows, whose images are in column `image` or in the real rows' own."""
    rows = open_dataset(name, "train")
    return rows if image_column in rows.column_names else rows.rename_column(IMAGE, image_column)


def run_cell(cell: Cell, splits: DatasetDict, options: Options) -> dict[str, Any]:
    """Trains and evaluates one cell; returns its figures on the test rows, and what they came from."""
    started, (data_args, model_args, config) = time.time(), options
    train, columns = splits["train"], [config.label_column, data_args.bias_column]
    real = groups.count_groups(train, *columns)
    counts = groups.subgroup_counts(real, "usb" if cell.data == "usb" else "ffr")
    with config.main_process_first(desc="data"):
        synthetic = None if cell.data == "real" else load_synthetic(train, counts, data_args, config, cell.seed)
    if cell.guided and guided_rows(train) + (guided_rows(synthetic) if synthetic is not None else 0) == 0:
        raise ValueError(f"--guided: no row of --data {cell.data} has provenance, there is nothing to guide")
    evaluated = {name: add_groups(splits[name], columns) for name in ("validation", "test")}

    # one budget for all: passes over the real rows and the synthetic total, also where there are only real ones
    rows = int(groups.subgroup_counts(real, "usb").sum()) + len(train)
    steps = step_budget(config, rows)
    config = replace(config, alpha=config.alpha if cell.guided else 0.0, seed=cell.seed, group_columns=[GROUP])
    drawn = (counts if synthetic is not None else 0 * counts).tolist()
    names = evaluated["test"].features[GROUP].names
    record: dict[str, Any] = {"groups": names, "real_rows": real.tolist(), "synthetic_rows": drawn, "stage_one": None}
    start, erm = None, settings_of(cell._replace(method="erm"), options)
    # DFR refits the head of what ERM trained
    folder = run_folder(config.output_dir, "runs", erm if cell.method == "dfr" else settings_of(cell, options))
    if cell.data == "ffr":  # stage one, once for all methods
        first = max(round(steps * len(synthetic) / rows), 1)
        steps = max(steps - first, 1)
        shared = {name: value for name, value in erm.items() if name != "stage_two_learning_rate"}
        stage_one = run_folder(config.output_dir, "stage_one", shared)
        known = (add_groups(synthetic, columns), evaluated["validation"])
        _, record["stage_one"] = run_stage(PGGTrainer, known, stage_one, first, None, (data_args, model_args, config))
        start = finished_model(stage_one)
        alpha = config.alpha if guided_rows(train) else 0.0
        config = replace(config, learning_rate=config.stage_two_learning_rate, alpha=alpha)
    elif synthetic is not None:
        train, columns = concatenate_datasets([train, synthetic]), [*columns, "source"]
    known = (add_groups(train, columns), evaluated["validation"])
    trainer, figures = run_stage(METHODS[cell.method], known, folder, steps, start, (data_args, model_args, config))
    record |= figures
    if cell.method == "dfr":
        record["dfr_C"] = refit_head(trainer.model, known[1], trainer.data_collator, seed=cell.seed).C
        trainer.save_model(str(folder / "dfr"))
    record |= {name: evaluation_figures(trainer, part, name) for name, part in evaluated.items()}
    return {**record, "seconds": round(time.time() - started, 1)}


def run_stage(
    kind: type[PGGTrainer], rows: tuple[Dataset, ...], folder: Path, steps: int, start: Path | None, options: Options
) -> tuple[PGGTrainer, dict[str, Any]]:
    """Trains a stage on train and validation rows, from a checkpoint (`start`) or the recipe's model, or loads it."""
    (train, validation), (_, model_args, config) = rows, options
    set_seed(config.seed)
    start = finished_model(folder) or start
    named = asdict(model_args) if start is None else {"model_name_or_path": str(start)}
    model, processor = image_classifier(train.features[config.label_column], config.image_size, **named)
    args = stage_arguments(config, folder, steps, config.evaluations)
    data = {"train_dataset": train, "eval_dataset": validation, "processing_class": processor}
    trainer = kind(model, args, compute_metrics=group_figures, **data)
    return trainer, train_stage(trainer, folder)


def group_figures(prediction: Any) -> dict[str, float]:
    arguments = prediction.predictions.argmax(1), prediction.label_ids, prediction.groups[GROUP]
    each = {f"accuracy_of_group_{g}": found["accuracy"] for g, found in group_accuracies(*arguments).items()}
    return {**group_metrics(*arguments), **each}


if __name__ == "__main__":
    run_recipe(main)
