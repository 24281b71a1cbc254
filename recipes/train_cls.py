"""Image classification on synthesized images, with and without input gradient guidance.

    accelerate launch recipes/train_cls.py --compare

trains on the embedded data (real digits, each class mostly on a photograph of its own): plainly, with edits that put
the digits on other photographs, and with the same edits and guidance. It prints one table, and writes for each method
a checkpoint with its model card, and `results.json`, `samples.png`, `gradients.png`, `curves.png`.

    accelerate launch recipes/train_cls.py config.yaml --alpha 3        # options from a JSON or YAML file; flags win
    accelerate launch recipes/train_cls.py --dataset_name my/photos --mask_column mask --backgrounds my/scenes \\
        --group_column scene --model_name_or_path facebook/dinov2-small --learning_rate 5e-5 --compare
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets
from torchvision.transforms import v2
from transformers import set_seed

from hf_pgg import PGGTrainer, add_provenance
from hf_pgg.cli.arguments import AnnotationArguments, CompareArguments, ModelArguments, RecipeConfig
from hf_pgg.cli.options import parse_options, run_recipe
from hf_pgg.data.labels import class_label, with_classes
from hf_pgg.data.loading import open_dataset
from hf_pgg.data.provenance import CONTRACT_COLUMNS, IMAGE, guided_rows
from hf_pgg.demo_data import OTHER_PHOTOGRAPHS, digits_on_photographs, photographs
from hf_pgg.metrics.compute_metrics import by_group, metrics_for
from hf_pgg.reports.comparison import report, result_cells, run_comparison, step_budget, step_time
from hf_pgg.reports.figures import gradient_maps, learning_curves, sample_grid
from hf_pgg.reports.record import hub_source, run_record, synthesis_settings
from hf_pgg.synthesis.by_name import MIXES, synthesis_by_name
from hf_pgg.training.models import image_classifier

EMBEDDED = "digits on photographs"
TRAIN_ON = ("real", "generated", "both")
METHODS = ("composite", "none", *MIXES)
REPORTED = {
    "accuracy": ("accuracy", 1),
    "worst_group_accuracy": ("worst group", 1),
    "target_gradient_share": ("target gradient share", 1),
}


@dataclass
class DataArguments(AnnotationArguments):
    dataset_name: str | None = field(default=None, metadata={"help": "Hub id, folder or parquet file (embedded data)."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    test_split: str = field(default="test", metadata={"help": "Split to report on."})
    mask_column: str | None = field(default=None, metadata={"help": "Mask of the object, for rows without provenance."})
    box_column: str | None = field(default=None, metadata={"help": "Boxes of the object, instead."})
    target_value: int | None = field(default=None, metadata={"help": "The object's value, if the mask is a label map."})
    group_column: str | None = field(default=None, metadata={"help": "Background class; with the label it is a group."})
    bias: float = field(default=0.9, metadata={"help": "Embedded data: how often a class is on its own photograph."})


@dataclass
class SynthesisArguments:
    synthesis: str = field(default="composite", metadata={"help": "Method of the rows added.", "choices": METHODS})
    synthesis_copies: float = field(default=0.5, metadata={"help": "Synthesized rows for each training row."})
    backgrounds: str | None = field(default=None, metadata={"help": "Data set of background images, for composites."})
    generated: str | None = field(default=None, metadata={"help": "Data set of rows that `synthesize.py` generated."})
    train_on: str = field(default="both", metadata={"help": "Rows of --generated.", "choices": TRAIN_ON})


def main() -> None:
    groups = {
        "data": DataArguments,
        "synthesis": SynthesisArguments,
        "model": ModelArguments,
        "methods": CompareArguments,
        "guidance": RecipeConfig,
    }
    data_args, synthesis, model_args, compare, config = parse_options(groups, description=__doc__)
    torch.set_flush_denormal(True)  # guidance drives gradients near zero, and denormal floats are slow on a CPU
    with config.main_process_first(desc="synthesis"):
        data, group_column = load_data(data_args, synthesis, config)
        revision = hub_source(data["train"])[1]
        synthesized, settings = synthesize(data["train"], data_args, synthesis, config.seed)
    config.group_columns = [group_column] if group_column else None
    config.max_steps = step_budget(config, len(synthesized))  # one budget for all: that of the longest training set
    methods = {**({"plain": 0.0, "synthesis": 0.0} if compare.compare else {}), "guided": config.alpha}
    trainers: dict[str, PGGTrainer] = {}  # of the first seed, for the figures

    def run(method: str, args: RecipeConfig) -> dict[str, Any]:
        rows = data["train"] if method == "plain" else synthesized
        trainer, seconds = train(rows, data["test"], args, model_args, augmented=bool(data_args.dataset_name))
        trainers.setdefault(method, trainer)
        results, groups = evaluate(trainer, data["test"], group_column)
        trainer.save_model()
        return run_record(
            trainer,
            results,
            method=method,
            base_model=model_args.model_name_or_path or False,
            data_name=data_args.dataset_name or EMBEDDED,
            data_revision=revision,
            test_rows=len(data["test"]),
            synthesis="none" if method == "plain" else f"{synthesis.synthesis} ({synthesis.synthesis_copies} a row)",
            arguments={**asdict(data_args), **asdict(synthesis)},
            train_seconds=seconds,
            synthesis_settings=None if method == "plain" else settings,
            **groups,
        )

    records = run_comparison(config, methods, compare.seeds, run)
    if config.process_index == 0:
        figures = draw(trainers, synthesized, data["test"], Path(config.output_dir))
        report(records, {**result_cells(REPORTED, digits=3), "time of a step": step_time(records)}, figures, config)


def load_data(data: DataArguments, args: SynthesisArguments, config: RecipeConfig) -> tuple[DatasetDict, str | None]:
    """Train and test rows with provenance where it is known, and the column that tells their background.

    Images are in column `image` and labels in `label`, which `config` says afterwards.
    """
    if data.dataset_name is None:
        rows = digits_on_photographs(bias=data.bias, seed=config.seed)
        return DatasetDict(train=with_generated(rows["train"], args), test=rows[data.test_split]), "aligned"
    rows, names = DatasetDict(), {config.image_column: IMAGE, config.label_column: "label"}
    for part, split in (("train", data.train_split), ("test", data.test_split)):
        options = {"columns": names, "annotations": data.annotated}
        options["class_columns"] = [data.group_column] if data.group_column else []
        rows[part] = open_dataset(data.dataset_name, split, data.dataset_config_name, **options)
        if data.mask_column or data.box_column:
            objects = {"mask_column": data.mask_column, "box_column": data.box_column, "box_format": data.box_format}
            rows[part] = add_provenance(rows[part], target_value=data.target_value, **objects)
    rows["train"] = with_generated(rows["train"], args, config.label_column)
    config.image_column, config.label_column = IMAGE, "label"
    return rows, data.group_column


def with_generated(real: Dataset, args: SynthesisArguments, label_column: str = "label") -> Dataset:
    """The real rows, the generated ones (labels in `label_column`), or both; they keep what provenance they have."""
    if args.generated is None or args.train_on == "real":
        return real
    rows = open_dataset(args.generated, "train", columns={IMAGE: IMAGE, label_column: "label"})
    rows = rows.select_columns([name for name in ("label", *CONTRACT_COLUMNS) if name in rows.column_names])
    rows = with_classes(rows, class_label(real.features).names, whose=args.generated)
    print(f"--- {args.generated}: {len(rows)} generated rows, {guided_rows(rows)} with provenance", flush=True)
    return rows if args.train_on == "generated" else concatenate_datasets([real, rows])


def synthesize(rows: Dataset, data: DataArguments, args: SynthesisArguments, seed: int) -> tuple[Dataset, Any]:
    """The training rows, followed by synthesized ones; and the settings of the method."""
    if args.synthesis == "none":
        return rows, None
    backgrounds = open_dataset(args.backgrounds, "train") if args.backgrounds else None
    if args.synthesis == "composite" and backgrounds is None and data.dataset_name is None:
        backgrounds = photographs(OTHER_PHOTOGRAPHS)
    flip = 0.5 if data.dataset_name else 0.0  # a mirrored digit is no digit
    method = synthesis_by_name(args.synthesis, rows, backgrounds, flip=flip, seed=seed)
    count = round(args.synthesis_copies * len(rows))
    draws = [np.random.default_rng([seed, i]).permutation(len(rows)) for i in range(count // len(rows) + 1)]
    added = method.map(rows.select(np.concatenate(draws)[:count]))
    added = added.select_columns([name for name in added.column_names if name in rows.column_names])
    return concatenate_datasets([rows, added]), synthesis_settings(method)


def train(
    rows: Dataset, test: Dataset, args: RecipeConfig, model_args: ModelArguments, *, augmented: bool
) -> tuple[PGGTrainer, float]:
    """Trains one classifier; also the seconds it took."""
    set_seed(args.seed)
    model, processor = image_classifier(class_label(rows.features), args.image_size, **asdict(model_args))
    augment = v2.RandomHorizontalFlip() if augmented else None
    metrics, data = metrics_for(*(args.group_columns or [])), {"train_dataset": rows, "eval_dataset": test}
    trainer = PGGTrainer(model, args, augment=augment, processing_class=processor, compute_metrics=metrics, **data)
    method = Path(args.output_dir).name
    print(f"--- {method}: {len(rows)} rows, {args.max_steps} steps, alpha {args.alpha}", flush=True)
    return trainer, trainer.train().metrics["train_runtime"]


def evaluate(trainer: PGGTrainer, test: Dataset, group_column: str | None) -> tuple[dict[str, float], dict[str, Any]]:
    """The results on the test rows, and the part of the record that holds them by group."""
    found = trainer.predict(test, metric_key_prefix="test")
    results = {key.removeprefix("test_"): value for key, value in found.metrics.items()}
    if group_column is None:
        return results, {}
    labels, values = found.label_ids, found.groups[group_column]
    classes, feature = class_label(trainer.train_dataset.features), test.features[group_column]
    value_names = feature.names if isinstance(feature, ClassLabel) else None
    rows = by_group(found.predictions, labels, values, classes.names, value_names)
    return results, {"groups": {"columns": ["label", group_column], "rows": rows}}


def draw(trainers: dict[str, PGGTrainer], synthesized: Dataset, test: Dataset, out: Path) -> dict[str, str]:
    """Draws the figures of a comparison into `out`; their files and titles."""
    collator = next(iter(trainers.values())).data_collator.for_evaluation()
    models = {name: trainer.model for name, trainer in trainers.items()}
    sample_grid(synthesized).savefig(out / "samples.png", dpi=130)
    gradient_maps(models, test, collator).savefig(out / "gradients.png", dpi=130)
    histories = {name: trainer.state.log_history for name, trainer in trainers.items()}
    learning_curves(histories).savefig(out / "curves.png", dpi=130)
    return {
        "samples.png": "Training rows with their provenance",
        "gradients.png": "Input gradients on test images",
        "curves.png": "Learning curves",
    }


if __name__ == "__main__":
    run_recipe(main)
