"""Weakly supervised object localization: a classifier trained on image labels, whose maps are measured against boxes.

    accelerate launch recipes/train_wsol.py --compare

trains on the embedded data (digits on photographs, masks known from pasting) plainly, with CutMix, which carries the
masks, and with CutMix and guidance; prints one table, and writes checkpoints, `results.json` and `localization.png`.
Boxes are never trained on. Masks of one's own training rows, say a saliency model's, are named by
`--train_mask_column`; without any, a mix's provenance is which part shows which class.

    accelerate launch recipes/train_wsol.py --dataset_name my/birds --box_column bbox --compare \\
        --model_name_or_path timm/tf_efficientnet_lite0.in1k --freeze_batch_norm --learning_rate 3e-4

The annotated rows of `--selection_split` choose each method's map and threshold, `--test_split` measures them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict, concatenate_datasets
from torchvision.transforms import v2
from transformers import set_seed

from hf_pgg import CutMix, MaskAblation, PGGTrainer, PuzzleMix, ResizeMix, add_provenance
from hf_pgg.cli.arguments import AnnotationArguments, CompareArguments, ModelArguments, RecipeConfig
from hf_pgg.cli.options import parse_options, run_recipe
from hf_pgg.data.annotations import squashed_rows
from hf_pgg.data.boxes import mask_to_box
from hf_pgg.data.images import decode_mask, encode_png
from hf_pgg.data.labels import class_label
from hf_pgg.data.loading import open_dataset
from hf_pgg.data.provenance import CONTRACT_COLUMNS, IMAGE, PROVENANCE
from hf_pgg.demo_data import digits_on_photographs
from hf_pgg.localization.attribution import METHODS
from hf_pgg.localization.classifier import load_classifier
from hf_pgg.localization.features import AttributionError
from hf_pgg.localization.images import LocalizationSettings, annotated_rows, evaluate_localization
from hf_pgg.localization.score_maps import with_smoothing
from hf_pgg.metrics.compute_metrics import metrics_for
from hf_pgg.reports.comparison import chosen_maps, methods_of, report, result_cells, run_comparison, step_budget
from hf_pgg.reports.localization_figures import localization_figure
from hf_pgg.reports.record import hub_source, run_record, synthesis_settings
from hf_pgg.synthesis import InputGradientSaliency
from hf_pgg.training.models import image_classifier

EMBEDDED = "digits on photographs"
FIGURE, TITLE = "localization.png", "Maps, boxes (green) and true boxes (red)"
MAPS = ["grad_cam", "guided_grad_cam", "input_gradient"]
MIXES = {"cutmix": CutMix, "resizemix": ResizeMix, "puzzlemix": PuzzleMix}
REPORTED = {
    "max_box_acc_v2": ("MaxBoxAccV2", 100),
    **{f"max_box_acc_v2_{iou}": (f"at 0.{iou // 10}", 100) for iou in (30, 50, 70)},
    "box_acc_v2": ("V2, threshold of selection", 100),
    "pixel_average_precision": ("PxAP", 100),
    "accuracy": ("top-1", 100),
    "target_gradient_share": ("target gradient share", 100),
}


@dataclass
class DataArguments(AnnotationArguments):
    dataset_name: str | None = field(default=None, metadata={"help": "Hub id, folder or parquet file (embedded data)."})
    train_split: str = field(default="train", metadata={"help": "Split to train on: images and labels."})
    selection_split: str = field(default="train", metadata={"help": "Its annotated rows choose map and threshold."})
    test_split: str = field(default="test", metadata={"help": "Split to report on."})
    box_column: str = field(default="bbox", metadata={"help": "Boxes of the object; rows may have None."})
    mask_column: str | None = field(default=None, metadata={"help": "Mask of the object, for PxAP."})
    target_value: int | None = field(default=None, metadata={"help": "The object's value, if the mask is a label map."})
    ignore_value: int | None = field(default=None, metadata={"help": "Value of mask pixels that PxAP leaves out."})
    train_mask_column: str | None = field(default=None, metadata={"help": "Object's mask in training rows (none)."})
    labels_only: bool = field(default=False, metadata={"help": "Embedded data: forget the digits' masks."})


@dataclass
class SynthesisArguments:
    synthesis: str = field(default="cutmix", metadata={"help": "Method of added rows.", "choices": (*MIXES, "none")})
    synthesis_copies: int = field(default=1, metadata={"help": "Mixed rows for each training row."})
    keep_originals: bool = field(default=True, metadata={"help": "Train on the unmixed rows too."})
    saliency_model: str | None = field(default=None, metadata={"help": "puzzlemix: its classifier (the plain run)."})
    masks: str = field(
        default="true", metadata={"help": "Ablation of the masks: random, whole, dilate:0.1, erode:0.3."}
    )


@dataclass
class MapArguments:
    attributions: list[str] = field(default_factory=lambda: MAPS, metadata={"help": "The choice.", "choices": METHODS})
    smoothing: float = field(default=0.05, metadata={"help": "Blur of gradient maps, as a share of the side."})


@dataclass
class Task(MapArguments, SynthesisArguments, DataArguments):
    """Everything that tells one run from another, beside the settings of training."""


@dataclass
class LocalizationConfig(RecipeConfig):
    alpha: float = field(default=1.0, metadata={"help": "Weight of the guidance loss."})


def main() -> None:
    groups = {
        "data": DataArguments,
        "synthesis": SynthesisArguments,
        "maps": MapArguments,
        "model": ModelArguments,
        "methods": CompareArguments,
        "guidance": LocalizationConfig,
    }
    *asked, model_args, compare, config = parse_options(groups, description=__doc__)
    task = Task(**{name: value for part in asked for name, value in vars(part).items()})
    torch.set_flush_denormal(True)
    with config.main_process_first(desc="data"):
        data = load_data(task, config)
    copies = task.synthesis_copies + task.keep_originals if task.synthesis != "none" else 1
    config.max_steps = step_budget(config, copies * len(data["train"]))
    shown, saliency_models = {}, {}  # of the first seed; of every seed

    def run(name: str, args: LocalizationConfig) -> dict[str, Any]:
        saliency = task.saliency_model or saliency_models.get(args.seed)
        with args.main_process_first(desc="mixing"):
            rows, settings = (data["train"], None) if name == "plain" else mix(data["train"], task, args, saliency)
        trainer, seconds = train(rows, args, model_args, task)
        trainer.save_model()  # an annotation that cannot be measured does not cost the training
        if name == "plain":
            saliency_models[args.seed] = args.output_dir
        results, localization = evaluate(trainer, data, task)
        shown.setdefault(name, (trainer.model, trainer.data_collator.spec, localization))
        return run_record(
            trainer,
            results,
            method=name,
            base_model=model_args.model_name_or_path or False,
            data_name=task.dataset_name or EMBEDDED,
            data_revision=hub_source(data["train"])[1],
            test_rows=len(data["test"]),
            synthesis="none" if name == "plain" else f"{task.synthesis} ({task.synthesis_copies} a row)",
            arguments=asdict(task),
            train_seconds=seconds,
            localization=localization,
            synthesis_settings=settings,
        )

    methods = methods_of(task.synthesis, config.alpha, compare.compare, known=PROVENANCE in data["train"].features)
    records = run_comparison(config, methods, compare.seeds, run)
    if config.process_index == 0:
        boxes = {"box_column": task.box_column, "box_format": task.box_format, "smoothing": task.smoothing}
        localization_figure(shown, data["test"], **boxes).savefig(Path(config.output_dir) / FIGURE, dpi=130)
        report(records, {"map": chosen_maps, **result_cells(REPORTED)}, {FIGURE: TITLE}, config)


def load_data(task: Task, config: LocalizationConfig) -> DatasetDict:
    """Splits `train` (at the model's input size), `selection` and `test` (with boxes): columns `image` and `label`."""
    if task.dataset_name is None:
        digits = digits_on_photographs(bias=0.1, seed=config.seed)
        boxed = {split: digits[split].map(_digit_annotations) for split in ("validation", "test")}
        known = [] if task.labels_only else CONTRACT_COLUMNS
        train = digits["train"].select_columns(list(dict.fromkeys([IMAGE, "label", *known])))
        task.mask_column = task.mask_column or "mask"
        return DatasetDict(train=train, selection=boxed["validation"], test=boxed["test"])
    names = {config.image_column: IMAGE, config.label_column: "label"}
    splits = {task.train_split, task.selection_split, task.test_split}
    options = {"columns": names, "annotations": task.annotated}
    parts = {split: open_dataset(task.dataset_name, split, **options) for split in sorted(splits)}
    config.image_column, config.label_column = IMAGE, "label"
    train = parts[task.train_split]
    if task.annotations:
        train = train.select_columns([IMAGE, "label"])  # what is measured is never trained on
        task.box_column, task.box_format = "bbox", "xywh"
    if task.train_mask_column:
        train = add_provenance(train, mask_column=task.train_mask_column)
    train = train.select_columns([name for name in (*CONTRACT_COLUMNS, "label") if name in train.column_names])
    if config.image_size is not None:  # squashed once, before mixing: the collator would crop
        train = squashed_rows(train, (config.image_size, config.image_size))
    return DatasetDict(train=train, selection=parts[task.selection_split], test=parts[task.test_split])


def _digit_annotations(row: dict[str, Any]) -> dict[str, Any]:
    """The digit's mask as a column, and the box around it."""
    mask = decode_mask(row["provenance"][0]) > 127
    return {"bbox": [float(value) for value in mask_to_box(mask)], "mask": encode_png(mask), "provenance": None}


def mix(train: Dataset, task: Task, args: LocalizationConfig, saliency_model: str | None) -> tuple[Dataset, Any]:
    """The training rows (unless `keep_originals` is off), followed by mixed ones with provenance; and the settings."""
    if task.synthesis == "none":
        return train, None
    options = {}
    if task.synthesis == "puzzlemix":
        if saliency_model is None:
            raise ValueError("--synthesis puzzlemix needs a classifier of these classes: --saliency_model or --compare")
        classifier = load_classifier(saliency_model, image_size=args.image_size)
        options["saliency"] = InputGradientSaliency(classifier.model, classifier.spec)
    parts = [train] if task.keep_originals else []
    for copy in range(task.synthesis_copies):
        method = MIXES[task.synthesis](source=train, seed=args.seed, epoch=copy, **options)
        rows = method.map(train)
        if task.masks != "true":
            rows = MaskAblation.named(task.masks, seed=args.seed, epoch=copy).map(rows)
        parts.append(rows)
    return concatenate_datasets(parts), synthesis_settings(method)


def train(rows: Dataset, args: LocalizationConfig, model_args: ModelArguments, task: Task) -> tuple[PGGTrainer, float]:
    """Trains one classifier on labels alone; also the seconds it took."""
    set_seed(args.seed)
    model, processor = image_classifier(class_label(rows.features), args.image_size, squash=True, **asdict(model_args))
    model = model.to(memory_format=torch.channels_last)  # convolutions are faster on a CPU
    flip = None if task.dataset_name is None else v2.RandomHorizontalFlip()
    trainer = PGGTrainer(
        model, args, augment=flip, train_dataset=rows, processing_class=processor, compute_metrics=metrics_for()
    )
    print(f"--- {Path(args.output_dir).name}: {len(rows)} rows, {args.max_steps} steps, alpha {args.alpha}", flush=True)
    return trainer, trainer.train().metrics["train_runtime"]


def evaluate(trainer: PGGTrainer, data: DatasetDict, task: Task) -> tuple[dict[str, float], dict[str, Any]]:
    """Top-1 on all test rows, localization on the annotated ones; with the map and threshold that `selection` chose."""
    model, spec = trainer.model, trainer.data_collator.spec
    boxes = LocalizationSettings(box_column=task.box_column, box_format=task.box_format)
    masks = replace(boxes, mask_column=task.mask_column, target_value=task.target_value, ignore_value=task.ignore_value)
    selection, on_test = {}, {}
    for name in task.attributions:
        method = with_smoothing(name, task.smoothing)
        try:
            found = evaluate_localization(model, spec, data["selection"], method, replace(boxes, delta=0.02))
        except AttributionError as error:
            print(f"{name}: not for this model ({error})")
            continue
        tested = evaluate_localization(model, spec, data["test"], method, replace(masks, threshold=found))
        selection[name], on_test[name] = found, tested
    chosen = max(selection, key=lambda name: selection[name]["max_box_acc_v2"])
    plain = data["test"].select_columns([IMAGE, "label"])
    accuracy = trainer.evaluate(plain, metric_key_prefix="test")["test_accuracy"]
    results = {**on_test[chosen], "accuracy": accuracy}
    if task.mask_column:
        measured = trainer.evaluate(annotated_rows(data["test"], spec.size, masks), metric_key_prefix="test")
        results["target_gradient_share"] = measured["test_target_gradient_share"]
    threshold = selection[chosen]["best_threshold"]
    return results, {"map": chosen, "threshold": threshold, "selection": selection, "test": on_test}


if __name__ == "__main__":
    run_recipe(main)
