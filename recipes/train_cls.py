"""Image classification on synthesized images, with and without input gradient guidance.

    accelerate launch recipes/train_cls.py --compare

trains on the embedded data (real digits, each class mostly on a photograph of its own): plainly, with edits that put
the digits on other photographs, and with the same edits and guidance; prints one table, and writes for each method a
checkpoint with its model card, and `results.json`, `samples.png`, `gradients.png`, `curves.png`.

    accelerate launch recipes/train_cls.py config.yaml        # the same options from a JSON or YAML file
    accelerate launch recipes/train_cls.py --dataset_name my/photos --mask_column mask --backgrounds my/scenes \\
        --group_column scene --model_name_or_path facebook/dinov2-small --learning_rate 5e-5 --compare
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets
from huggingface_hub import upload_folder
from torchvision.transforms import v2
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    HfArgumentParser,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    set_seed,
)

from benchmarks.tables import mean_and_spread
from hf_pgg import BackgroundExchange, Composite, CutMix, PGGConfig, PGGTrainer, ResizeMix, add_provenance
from hf_pgg.data.labels import class_label
from hf_pgg.data.loading import open_dataset
from hf_pgg.data.provenance import CONTRACT_COLUMNS, IMAGE, PROVENANCE
from hf_pgg.demo_data import OTHER_PHOTOGRAPHS, digits_on_photographs, photographs
from hf_pgg.metrics import group_accuracies, group_metrics, pair_groups
from hf_pgg.reports.figures import gradient_maps, learning_curves, sample_grid
from hf_pgg.reports.model_card import model_card
from hf_pgg.reports.record import comparison_rows, hub_source, run_record, synthesis_settings
from hf_pgg.training.trainer import GroupedEvalPrediction

EMBEDDED = "digits on photographs"


@dataclass
class DataArguments:
    dataset_name: str | None = field(
        default=None, metadata={"help": "Hub id, local folder or parquet file; default: the embedded data."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    test_split: str = field(default="test", metadata={"help": "Split to report on."})
    mask_column: str | None = field(
        default=None, metadata={"help": "Mask of the object, where the rows have no provenance yet."}
    )
    box_column: str | None = field(default=None, metadata={"help": "Box [x, y, width, height] of the object, instead."})
    target_value: int | None = field(default=None, metadata={"help": "The object's value, if the mask is a label map."})
    group_column: str | None = field(
        default=None, metadata={"help": "Background class of the test rows; a group is a label on a background."}
    )
    backgrounds: str | None = field(
        default=None, metadata={"help": "Data set of background images for composites: Hub id, folder or parquet."}
    )
    synthesis: str = field(
        default="composite",
        metadata={"help": "composite, exchange, cutmix, resizemix or none: rows added to the training rows."},
    )
    synthesis_copies: float = field(default=0.5, metadata={"help": "Synthesized rows for each training row."})
    generated: str | None = field(
        default=None, metadata={"help": "Data set of generated rows (image, label), as `synthesize.py` writes it."}
    )
    train_on: str = field(default="both", metadata={"help": "With --generated: real, generated or both."})
    bias: float = field(default=0.9, metadata={"help": "Embedded data: how often a class is on its own photograph."})


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id or local checkpoint; default: a small network from scratch."}
    )
    architecture: str = field(default="convnext", metadata={"help": "From scratch: convnext or vit."})
    model_revision: str = field(default="main", metadata={"help": "Revision of the checkpoint on the Hub."})


@dataclass
class CompareArguments:
    compare: bool = field(
        default=False, metadata={"help": "Train plainly, with synthesis alone, and with synthesis and guidance."}
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds; the table gives mean and spread."})


@dataclass
class RecipeConfig(PGGConfig):
    """`PGGConfig` with the defaults of this recipe."""

    output_dir: str | None = field(default="out/train_cls", metadata={"help": "Where everything is written."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Images a step and device."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Images a step in evaluation."})
    num_train_epochs: float = field(default=12, metadata={"help": "Passes over the synthesized training rows."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak step size of AdamW."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the step size."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps of warm-up, or their share if below 1."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    logging_steps: float = field(default=20, metadata={"help": "Steps between two logs."})
    save_strategy: str = field(default="no", metadata={"help": "Checkpoints while training: no, epoch, steps."})
    report_to: list[str] | None = field(default_factory=lambda: ["none"], metadata={"help": "Trackers to log to."})
    alpha: float = field(default=10.0, metadata={"help": "Weight of the guidance loss."})


def main() -> None:
    parser = HfArgumentParser((DataArguments, ModelArguments, CompareArguments, RecipeConfig))
    if len(sys.argv) == 2 and sys.argv[1].endswith((".json", ".yaml", ".yml")):
        read = parser.parse_json_file if sys.argv[1].endswith(".json") else parser.parse_yaml_file
        data_args, model_args, compare, config = read(sys.argv[1])
    else:
        data_args, model_args, compare, config = parser.parse_args_into_dataclasses()
    torch.set_flush_denormal(True)  # guidance drives gradients near zero, and denormal floats are slow on a CPU

    with config.main_process_first(desc="synthesis"):
        data, group_column, name = load_data(data_args, config)
        source = hub_source(data["train"])
        synthesized, settings = synthesize(data["train"], data_args, config.seed)
    config.group_columns = [group_column] if group_column else None
    methods = {"guided": (synthesized, config.alpha)}
    if compare.compare:
        methods = {
            "plain": (data["train"], 0.0),
            "synthesis": (synthesized, 0.0),
            "guided": (synthesized, config.alpha),
        }
    # one budget for all: the steps of the longest training set
    world_batch = config.train_batch_size * config.gradient_accumulation_steps * config.world_size
    steps = (
        config.max_steps if config.max_steps > 0 else round(config.num_train_epochs * len(synthesized) / world_batch)
    )

    records: list[dict[str, Any]] = []
    models, histories = {}, {}
    for seed in compare.seeds:
        for method, (train, alpha) in methods.items():
            folder = str(Path(config.output_dir) / (method if len(compare.seeds) == 1 else f"{method}-seed{seed}"))
            args = replace(config, output_dir=folder, alpha=alpha, seed=seed, max_steps=steps)
            if config.hub_model_id and len(methods) * len(compare.seeds) > 1:
                args.hub_model_id = f"{config.hub_model_id}-{Path(folder).name}"  # a repository each
            trainer, record = train_one(method, train, data["test"], args, model_args, data_args, name, group_column)
            record["data"]["revision"] = source[1]
            if method != "plain" and settings:
                record["synthesis"] = settings
            records.append(record)
            if seed == compare.seeds[0]:
                models[method], histories[method] = trainer.model, trainer.state.log_history
    if not trainer.is_world_process_zero():
        return

    out = Path(config.output_dir)
    figures = {
        "samples.png": (sample_grid(synthesized), "Training rows with their provenance"),
        "gradients.png": (
            gradient_maps(models, data["test"], trainer.data_collator.for_evaluation()),
            "Input gradients on test images",
        ),
        "curves.png": (learning_curves(histories), "Learning curves"),
    }
    for file, (figure, _) in figures.items():
        figure.savefig(out / file, dpi=130)
    write_records(records, {file: title for file, (_, title) in figures.items()}, out)
    push_records(records, out, config.hub_token)
    print(table(records))
    print(f"written: {out}/results.json, " + ", ".join(figures))


def load_data(args: DataArguments, config: PGGConfig) -> tuple[DatasetDict, str | None, str]:
    """Train and test rows with provenance where it is known, the group column, and the data's name.

    Images are in column `image` and labels in `label`, which `config` says afterwards.
    """
    if args.dataset_name is None:
        data = digits_on_photographs(bias=args.bias, seed=config.seed)
        train = with_generated(data["train"], args)
        return DatasetDict(train=train, test=data[args.test_split]), "aligned", EMBEDDED
    names = {config.image_column: IMAGE, config.label_column: "label"}
    data = DatasetDict(
        {
            part: open_dataset(args.dataset_name, split, args.dataset_config_name, names)
            for part, split in (("train", args.train_split), ("test", args.test_split))
        }
    )
    if args.mask_column or args.box_column:
        data = DatasetDict(
            {
                split: add_provenance(
                    rows,
                    mask_column=args.mask_column,
                    box_column=args.box_column,
                    target_value=args.target_value,
                )
                for split, rows in data.items()
            }
        )
    data["train"] = with_generated(data["train"], args, config.label_column)
    config.image_column, config.label_column = IMAGE, "label"
    return data, args.group_column, args.dataset_name


def with_generated(train: Dataset, args: DataArguments, label_column: str = "label") -> Dataset:
    """The real rows, the generated ones, or both; generated rows keep what provenance they have.

    Args:
        label_column: Of the generated rows; their images are in column `image`.
    """
    if args.train_on not in ("real", "generated", "both"):
        raise SystemExit(f"--train_on {args.train_on}: choose real, generated or both")
    if args.generated is None or args.train_on == "real":
        return train
    rows = open_dataset(args.generated, "train", columns={IMAGE: IMAGE, label_column: "label"})
    rows = rows.select_columns([name for name in ("label", *CONTRACT_COLUMNS) if name in rows.column_names])
    label, theirs = (class_label(part.features, "label") for part in (train, rows))
    if theirs.names != label.names:
        raise SystemExit(f"the classes of {args.generated} are {theirs.names}, those of the data {label.names}")
    print(f"--- {args.generated}: {len(rows)} generated rows, {guided_rows(rows)} with provenance", flush=True)
    return rows if args.train_on == "generated" else concatenate_datasets([train, rows])


def guided_rows(rows: Dataset) -> int:
    """How many rows have provenance."""
    if PROVENANCE not in rows.column_names:
        return 0
    return len(rows) - rows.with_format("arrow")[PROVENANCE].null_count


def synthesize(train: Dataset, args: DataArguments, seed: int) -> tuple[Dataset, dict[str, Any]]:
    """The training rows, followed by synthesized ones; and the settings of the method."""
    if args.synthesis == "none":
        return train, {}
    if args.synthesis == "composite":
        if args.backgrounds is None and args.dataset_name is not None:
            raise SystemExit("--synthesis composite needs --backgrounds, a data set of background images")
        pool = open_dataset(args.backgrounds, "train") if args.backgrounds else photographs(OTHER_PHOTOGRAPHS)
        side = train[0]["image"].size[0]
        flip = 0.0 if args.dataset_name is None else 0.5  # a mirrored digit is no digit
        method: Any = Composite(backgrounds=pool, size=side, seed=seed, flip=flip, scale=(0.6, 0.9))
    else:
        kinds = {"exchange": BackgroundExchange, "cutmix": CutMix, "resizemix": ResizeMix}
        if args.synthesis not in kinds:
            raise SystemExit(f"--synthesis {args.synthesis}: choose composite, none, {', '.join(kinds)}")
        method = kinds[args.synthesis](source=train, seed=seed)
    count = round(args.synthesis_copies * len(train))
    order = np.concatenate(
        [np.random.default_rng([seed, copy]).permutation(len(train)) for copy in range(count // len(train) + 1)]
    )[:count]
    rows = method.map(train.select(order))
    rows = rows.select_columns([c for c in rows.column_names if c in train.column_names])
    return concatenate_datasets([train, rows]), synthesis_settings(method)


def load_model(args: ModelArguments, config: PGGConfig, label: ClassLabel) -> tuple[Any, Any]:
    """A checkpoint with a new head, or a small ConvNeXt or ViT from scratch, and its image processor."""
    labels = {
        "num_labels": label.num_classes,
        "id2label": dict(enumerate(label.names)),
        "label2id": {name: i for i, name in enumerate(label.names)},
    }
    if args.model_name_or_path is None:
        # layer norm and GELU: nothing leaks between samples, and finite differences see a smooth function
        size = config.image_size or 48
        processor = ViTImageProcessor(size={"height": size, "width": size})
        if args.architecture == "convnext":
            shape = {"hidden_sizes": [32, 64, 128, 192], "depths": [1, 1, 2, 1], "layer_scale_init_value": 1.0}
            return ConvNextForImageClassification(ConvNextConfig(**shape, image_size=size, **labels)), processor
        if args.architecture == "vit":
            shape = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 576}
            return ViTForImageClassification(ViTConfig(**shape, image_size=size, patch_size=8, **labels)), processor
        raise SystemExit(f"--architecture {args.architecture}: choose convnext or vit")
    options = {"revision": args.model_revision}
    processor = AutoImageProcessor.from_pretrained(args.model_name_or_path, **options)
    model = AutoModelForImageClassification.from_pretrained(
        args.model_name_or_path, dtype=torch.float32, ignore_mismatched_sizes=True, **labels, **options
    )
    return model, processor


def train_one(
    method: str,
    train: Dataset,
    test: Dataset,
    args: PGGConfig,
    model_args: ModelArguments,
    data_args: DataArguments,
    data_name: str,
    group_column: str | None,
) -> tuple[PGGTrainer, dict[str, Any]]:
    """Trains one method, evaluates it on the test rows, saves its checkpoint, and returns its run record."""
    set_seed(args.seed)
    label = class_label(train.features, args.label_column)
    model, processor = load_model(model_args, args, label)
    augment = None if data_args.dataset_name is None else v2.RandomHorizontalFlip()
    trainer = PGGTrainer(
        model,
        args,
        augment=augment,
        train_dataset=train,
        eval_dataset=test,
        processing_class=processor,
        compute_metrics=metrics_for(group_column),
    )
    print(f"--- {method}, seed {args.seed}: {len(train)} rows, {args.max_steps} steps, alpha {args.alpha}", flush=True)
    trained = trainer.train()
    found = trainer.predict(test, metric_key_prefix="test")
    trainer.save_model()
    synthesis = "none" if method == "plain" else f"{data_args.synthesis} ({data_args.synthesis_copies} a row)"
    record = run_record(
        trainer,
        {key.removeprefix("test_"): value for key, value in found.metrics.items()},
        method=method,
        base_model=model_args.model_name_or_path,
        data_name=data_name,
        test_rows=len(test),
        synthesis=synthesis,
        arguments=asdict(data_args),
        train_seconds=trained.metrics["train_runtime"],
    )
    if group_column:
        logits = found.predictions[0] if isinstance(found.predictions, tuple) else found.predictions
        labels, groups = found.label_ids
        record["groups"] = by_group(logits, labels[:, 0], groups, test, label, group_column)
    return trainer, record


def by_group(
    logits: np.ndarray, labels: np.ndarray, values: np.ndarray, test: Dataset, label: ClassLabel, column: str
) -> dict[str, Any]:
    """The test rows' accuracy by group, a group being a label on a value of `column`, for the run record."""
    feature = test.features[column]
    named = feature.int2str if isinstance(feature, ClassLabel) else str
    numbers = pair_groups(labels, values)
    first = dict(zip(*np.unique(numbers, return_index=True), strict=True))
    rows = [
        {"name": f"{label.int2str(int(labels[first[number]]))}, {named(int(values[first[number]]))}", **found}
        for number, found in group_accuracies(logits.argmax(1), labels, numbers).items()
    ]
    return {"columns": ["label", column], "rows": rows}


def metrics_for(group_column: str | None) -> Callable[[GroupedEvalPrediction], dict[str, float]]:
    """`compute_metrics`: accuracy by group, a group being a label on a background."""

    def compute(prediction: GroupedEvalPrediction) -> dict[str, float]:
        labels = prediction.label_ids
        logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
        backgrounds = prediction.groups[group_column] if group_column else np.zeros_like(labels)
        return group_metrics(logits.argmax(1), labels, pair_groups(labels, backgrounds))

    return compute


def write_records(records: list[dict[str, Any]], images: Mapping[str, str], out: Path) -> None:
    """`results.json` of all runs, and in each checkpoint's folder its own record, its card and the images.

    Args:
        images: File to title; of all runs, in `out`, or of each run, in its folder already.
    """
    for record in records:
        folder = out / record["model"]["name"]
        record["comparison"] = comparison_rows(records)
        record["figures"] = [{"file": file, "title": title} for file, title in images.items()]
        for file in images:
            if (out / file).exists():
                (folder / file).write_bytes((out / file).read_bytes())
        (folder / "results.json").write_text(json.dumps(record, indent=1) + "\n")
        model_card(record).save(folder / "README.md")
    (out / "results.json").write_text(json.dumps(records, indent=1) + "\n")


def push_records(records: list[dict[str, Any]], out: Path, token: str | None) -> None:
    """Card, record and images to the repositories that the models were pushed to."""
    for record in records:
        if record["model"]["repo"]:
            upload_folder(
                repo_id=record["model"]["repo"],
                folder_path=out / record["model"]["name"],
                allow_patterns=["README.md", "results.json", *(image["file"] for image in record["figures"])],
                commit_message="Model card and run record",
                token=token,
            )


def table(records: list[dict[str, Any]]) -> str:
    """Method x {accuracy, worst group, target gradient share, time of a step over the first method's}; mean, spread."""
    names = list(dict.fromkeys(record["method"]["name"] for record in records))
    lines = [
        "| method | accuracy | worst group | target gradient share | time of a step |",
        "| --- | --- | --- | --- | --- |",
    ]
    first = None
    for name in names:
        runs = [record for record in records if record["method"]["name"] == name]
        cells = []
        for key in ("accuracy", "worst_group_accuracy", "target_gradient_share"):
            cells.append(mean_and_spread(run["results"][key] for run in runs if key in run["results"]))
        seconds = float(np.median([run["method"]["seconds_per_step"] for run in runs]))
        first = first or seconds
        failed = sum(run["collapsed_at"] is not None for run in runs)
        note = f" ({failed} of {len(runs)} failed)" if failed else ""
        lines.append(f"| {name}{note} | {' | '.join(cells)} | {seconds / first:.1f} x |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
