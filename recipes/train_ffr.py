"""From-Fake-to-Real: balanced synthetic rows first, biased real rows second, beside the baselines that mix them.

    accelerate launch recipes/train_ffr.py --method erm groupdro --data real usb asb ffr --bias 0.99 --seeds 0 1
    accelerate launch recipes/train_ffr.py --method erm --data ffr --guided

One cell is a method on a data set at a bias and a seed; each cell appends a line to `results.jsonl`, finished ones are
skipped, and the table of all lines is printed.

`--data real`: no synthetic row. `usb`: synthetic rows top every (label, bias) group up to the largest one. `asb`: the
same number shared evenly. `ffr`: as many as `asb`, in a stage of their own; stage two starts from its weights, head
included, and sees real rows alone. `--method`: `erm`, `resample`, `groupdro` or `dfr`; where rows are mixed, the groups
of `resample` and `groupdro` are (label, bias, real or synthetic). Checkpoints, in either stage, are chosen by the worst
group of the real validation rows; DFR refits on these rows. `--guided` guides whatever rows have provenance.

The embedded data: is a handwritten digit even or odd, on one of two photographs; the training digits of a class stand
on its own photograph with the given bias, validation and test digits on either as often. **By default its synthetic
rows are a stand-in, not a generator's**: cut-outs of the training digits, pasted on the photograph asked for, smaller
and with softer edges than the real ones, so that real and synthetic can be told apart. Images of a generator come in
with `--synthetic_dataset`; `train_pixel_generator.py` trains one on the embedded digits:

    accelerate launch recipes/train_pixel_generator.py
    accelerate launch recipes/train_ffr.py --synthetic_dataset out/pixel_generator/images
    accelerate launch recipes/train_ffr.py --dataset_name my/faces --synthetic_dataset my/generated --bias_column gender
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from ffr_data import (
    SIZE,
    DataArguments,
    load_data,
    load_synthetic,
    require_every_group,
    synthetic_digest,
)
from train_cls import ModelArguments, guided_rows, load_model
from transformers import AutoImageProcessor, AutoModelForImageClassification, HfArgumentParser, set_seed
from transformers.trainer_utils import get_last_checkpoint

from benchmarks.tables import mean_and_spread, read_records
from hf_pgg import PGGConfig, PGGTrainer
from hf_pgg.data.groups import GROUP, add_groups, count_groups, subgroup_counts
from hf_pgg.metrics import group_accuracies, group_metrics
from hf_pgg.reports.record import environment
from hf_pgg.training.debias import GroupDROTrainer, ResamplingTrainer
from hf_pgg.training.last_layer import refit_head
from hf_pgg.training.trainer import GroupedEvalPrediction

METHODS = {"erm": PGGTrainer, "resample": ResamplingTrainer, "groupdro": GroupDROTrainer, "dfr": PGGTrainer}
DATA = ("real", "usb", "asb", "ffr")
MODEL = "model"  # folder of a stage's weights


@dataclass
class CellArguments:
    method: list[str] = field(default_factory=lambda: ["erm"], metadata={"help": f"Of {', '.join(METHODS)}."})
    data: list[str] = field(default_factory=lambda: ["ffr"], metadata={"help": f"Of {', '.join(DATA)}."})
    bias: list[float] = field(
        default_factory=list,
        metadata={"help": "Share of the majority in the training rows; default: 0.99, own data as it is."},
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds of everything that is drawn."})
    guided: bool = field(default=False, metadata={"help": "Guide the rows that have provenance."})


@dataclass
class RecipeConfig(PGGConfig):
    """`PGGConfig` with the defaults of this recipe."""

    output_dir: str | None = field(default="out/train_ffr", metadata={"help": "Where everything is written."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Images a step and device."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Images a step in evaluation."})
    num_train_epochs: float = field(default=10, metadata={"help": "Passes over real and synthetic rows together."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak step size of stage one and of the baselines."})
    stage_two_learning_rate: float = field(default=1e-5, metadata={"help": "Peak step size of FFR's stage two."})
    evaluations: int = field(default=6, metadata={"help": "Checkpoints of a stage that are compared on validation."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the step size."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps of warm-up, or their share if below 1."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    logging_steps: float = field(default=20, metadata={"help": "Steps between two logs."})
    image_size: int | None = field(default=SIZE, metadata={"help": "Input size in pixels."})
    report_to: list[str] | None = field(default_factory=lambda: ["none"], metadata={"help": "Trackers to log to."})
    alpha: float = field(default=1.0, metadata={"help": "Weight of the guidance loss where `--guided`."})


@dataclass(frozen=True)
class Cell:
    method: str
    data: str
    bias: float | None
    guided: bool
    seed: int


def main() -> None:
    parser = HfArgumentParser((DataArguments, CellArguments, ModelArguments, RecipeConfig))
    data_args, cells, model_args, config = parser.parse_args_into_dataclasses()
    for option, chosen, known in (("method", cells.method, METHODS), ("data", cells.data, DATA)):
        for value in chosen:
            if value not in known:
                raise SystemExit(f"--{option} {value}: choose {', '.join(known)}")
    if data_args.dataset_name and not data_args.synthetic_dataset and set(cells.data) != {"real"}:
        raise SystemExit(f"--data {' '.join(cells.data)} needs --synthetic_dataset, rows of every (label, bias) group")
    torch.set_flush_denormal(True)  # guidance drives gradients near zero, and denormal floats are slow on a CPU

    results = Path(config.output_dir) / "results.jsonl"
    biases = cells.bias or [None if data_args.dataset_name else 0.99]
    splits: dict[tuple[float | None, int], DatasetDict] = {}  # the real rows at hand: those of one bias and seed
    for bias, seed, data, method in product(biases, cells.seeds, cells.data, cells.method):
        cell = Cell(method, data, bias, cells.guided, seed)
        settings = settings_of(data_args, model_args, config, cell)
        if any(record["settings"] == settings for record in read_records(results)):
            print(f"{cell}: finished before", flush=True)
            continue
        if (bias, seed) not in splits:
            with config.main_process_first(desc="data"):
                splits = {(bias, seed): load_data(data_args, config, bias, seed)}
            require_every_group(splits[bias, seed], config.label_column, data_args.bias_column)
        record = run_cell(cell, splits[bias, seed], data_args, model_args, config)
        if config.process_index == 0:
            results.parent.mkdir(parents=True, exist_ok=True)
            with results.open("a") as file:
                file.write(json.dumps({"settings": settings, **record, "environment": environment()}) + "\n")
    if config.process_index == 0:
        print(table(read_records(results)))
        print("written:", results)


def settings_of(data: DataArguments, model: ModelArguments, config: RecipeConfig, cell: Cell) -> dict[str, Any]:
    """What a run depends on: equal settings, equal run."""
    names = ["max_steps", "num_train_epochs", "train_batch_size", "gradient_accumulation_steps", "world_size"]
    names += ["learning_rate", "stage_two_learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay"]
    names += ["evaluations", "image_size", "freeze_batch_norm", "label_column", "image_column", "optim"]
    names += ["max_grad_norm", "bf16", "fp16", "label_smoothing_factor"]
    if cell.guided:
        names += ["alpha", "alpha_warmup_ratio", *(name for name in vars(config) if name.startswith("guidance_"))]
    synthetic = None
    if data.synthetic_dataset and cell.data != "real":  # a generator may have been trained again under the same name
        synthetic = synthetic_digest(data.synthetic_dataset, config.image_column)
    named = {name: getattr(config, name) for name in names}
    return {**asdict(cell), **asdict(data), **asdict(model), **named, "synthetic_digest": synthetic}


# ---------------------------------------------------------------------------------------------- one cell


def run_cell(
    cell: Cell, splits: DatasetDict, data_args: DataArguments, model_args: ModelArguments, config: RecipeConfig
) -> dict[str, Any]:
    """Trains and evaluates one cell; returns its figures on the test rows, and what they came from."""
    started = time.time()
    # DFR refits the head of what ERM trained
    trained = replace(cell, method="erm") if cell.method == "dfr" else cell
    folder = Path(config.output_dir) / "runs" / digest(settings_of(data_args, model_args, config, trained))
    label, bias = config.label_column, data_args.bias_column
    real = count_groups(splits["train"], label, bias)
    counts = subgroup_counts(real, "usb" if cell.data == "usb" else "ffr")
    with config.main_process_first(desc="data"):
        synthetic = None if cell.data == "real" else load_synthetic(splits, counts, data_args, config, cell.seed)
    evaluated = {name: add_groups(splits[name], [label, bias]) for name in ("validation", "test")}

    # one budget for all: passes over the real rows and the synthetic total, also where there are only real ones
    total, batch = int(subgroup_counts(real, "usb").sum()), config.train_batch_size * config.world_size
    rows = total + len(splits["train"])
    steps = config.max_steps
    if steps <= 0:
        steps = round(config.num_train_epochs * rows / (batch * config.gradient_accumulation_steps))
    config = replace(config, alpha=config.alpha if cell.guided else 0.0, seed=cell.seed, group_columns=[GROUP])
    record: dict[str, Any] = {
        "groups": evaluated["test"].features[GROUP].names,
        "real_rows": real.tolist(),
        "synthetic_rows": (counts if synthetic is not None else 0 * counts).tolist(),
        "stage_one": None,
    }
    train, columns, start = splits["train"], [label, bias], None
    if cell.guided and guided_rows(train) + (guided_rows(synthetic) if synthetic is not None else 0) == 0:
        raise SystemExit(f"--guided: no row of --data {cell.data} has provenance, there is nothing to guide")
    if cell.data == "ffr":
        first = max(round(steps * len(synthetic) / rows), 1)
        steps = max(steps - first, 1)
        start, record["stage_one"] = stage_one(synthetic, evaluated, first, cell, data_args, model_args, config)
        config = replace(config, learning_rate=config.stage_two_learning_rate)
    elif synthetic is not None:
        train, columns = concatenate_datasets([train, synthetic]), [label, bias, "source"]
    train = add_groups(train, columns)
    trainer, figures = train_stage(METHODS[cell.method], train, evaluated, folder, steps, start, model_args, config)
    record |= figures
    if cell.method == "dfr":
        layer = refit_head(trainer.model, evaluated["validation"], trainer.data_collator, seed=cell.seed)
        record["dfr_C"] = layer.C
        trainer.save_model(str(folder / "dfr"))
    for name in evaluated:
        figures = trainer.evaluate(evaluated[name], metric_key_prefix=name)
        record[name] = {
            key.removeprefix(f"{name}_"): value
            for key, value in figures.items()
            if key.startswith(f"{name}_") and not key.endswith(("_runtime", "_per_second"))
        }
    return {**record, "seconds": round(time.time() - started, 1)}


def stage_one(
    synthetic: Dataset,
    evaluated: dict[str, Dataset],
    steps: int,
    cell: Cell,
    data_args: DataArguments,
    model_args: ModelArguments,
    config: RecipeConfig,
) -> tuple[Path, dict[str, Any]]:
    """The model trained on the synthetic rows alone, once for all methods, and its figures."""
    shared = settings_of(data_args, model_args, config, replace(cell, method="erm"))
    shared.pop("stage_two_learning_rate")
    folder = Path(config.output_dir) / "stage_one" / digest(shared)
    rows = add_groups(synthetic, [config.label_column, data_args.bias_column])
    _, figures = train_stage(PGGTrainer, rows, evaluated, folder, steps, None, model_args, config)
    return folder / MODEL, figures


def train_stage(
    trainer_class: type[PGGTrainer],
    train: Dataset,
    evaluated: dict[str, Dataset],
    folder: Path,
    steps: int,
    start: Path | None,
    model_args: ModelArguments,
    config: RecipeConfig,
) -> tuple[PGGTrainer, dict[str, Any]]:
    """Trains from `start` (a stage's model) or from the recipe's model; ends with the best checkpoint's weights.

    A stage that is in `folder` already is loaded. Returns its trainer and its figures.
    """
    set_seed(config.seed)
    finished = folder / "stage.json"
    if finished.exists():
        start = folder / MODEL
    if start is None:
        model, processor = load_model(model_args, config, train.features[config.label_column])
    else:
        model = AutoModelForImageClassification.from_pretrained(start, dtype=torch.float32)
        processor = AutoImageProcessor.from_pretrained(start)
    interval = max(steps // config.evaluations, 1)
    args = replace(
        config,
        output_dir=str(folder / "checkpoints"),
        max_steps=steps,
        eval_strategy="steps",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="worst_group_accuracy",
        greater_is_better=True,
    )
    trainer = trainer_class(
        model,
        args,
        train_dataset=train,
        eval_dataset=evaluated["validation"],
        processing_class=processor,
        compute_metrics=group_figures,
    )
    if not finished.exists():
        rows = f"{len(train)} rows, {guided_rows(train)} with provenance"
        print(f"--- {trainer_class.__name__}, {rows}, {steps} steps, seed {config.seed}: {folder}", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        trainer.train(
            resume_from_checkpoint=get_last_checkpoint(args.output_dir) if Path(args.output_dir).exists() else None
        )
        trainer.save_model(str(folder / MODEL))
        if trainer.is_world_process_zero():
            finished.write_text(json.dumps({"guided_rows": guided_rows(train), **run_figures(trainer)}))  # last
            shutil.rmtree(args.output_dir)
        trainer.accelerator.wait_for_everyone()
    return trainer, json.loads(finished.read_text())


def group_figures(prediction: GroupedEvalPrediction) -> dict[str, float]:
    answers, groups = prediction.predictions.argmax(1), prediction.groups[GROUP]
    each = group_accuracies(answers, prediction.label_ids, groups)
    figures = group_metrics(answers, prediction.label_ids, groups)
    return {**figures, **{f"accuracy_of_group_{group}": entry["accuracy"] for group, entry in each.items()}}


def run_figures(trainer: PGGTrainer) -> dict[str, Any]:
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    weights = {}
    if isinstance(trainer, GroupDROTrainer):
        names = trainer.train_dataset.features[GROUP].names
        weights["group_weights"] = dict(zip(names, trainer.dro.q.tolist(), strict=True))
    return {
        **weights,
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step,
        "validation_worst_group_accuracy": trainer.state.best_metric,
        "target_gradient_share": history[-1].get("target_gradient_share") if history else None,
        "train_accuracy": history[-1]["train_accuracy"] if history else None,
        "collapsed_at": trainer.collapsed_at,
        "nonfinite_steps": trainer.nonfinite_steps,
    }


def digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


# ---------------------------------------------------------------------------------------------- table


def table(records: list[dict[str, Any]]) -> str:
    """One line for each data, method and guidance: worst group and balanced accuracy on test; mean, spread, runs."""
    lines = ["| bias | data | method | guided | worst group | balanced | runs |", "|" + " --- |" * 7]
    keys = ("bias", "data", "method", "guided")
    for key in dict.fromkeys(tuple(record["settings"][name] for name in keys) for record in records):
        runs = [record for record in records if tuple(record["settings"][name] for name in keys) == key]
        cells = []
        for figure in ("worst_group_accuracy", "balanced_accuracy"):
            cells.append(mean_and_spread(run["test"][figure] for run in runs))
        bias, data, method, guided = key
        lines.append(
            f"| {bias} | {data} | {method} | {'yes' if guided else 'no'} | {' | '.join(cells)} | {len(runs)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
