"""Weakly supervised object localization: a classifier trained on image labels, whose maps are measured against boxes.

    accelerate launch recipes/train_wsol.py --compare

trains on the embedded data (real digits on real photographs, masks known from pasting) plainly, with CutMix, which
carries the masks, and with CutMix and guidance; prints one table, and writes checkpoints, `results.json` and
`localization.png`. Boxes are never trained on. Masks of one's own training rows, say a saliency model's, are named by
`--train_mask_column`; without any, a mix's provenance is which part shows which class.

    accelerate launch recipes/train_wsol.py --dataset_name my/birds --box_column bbox --compare \\
        --model_name_or_path timm/tf_efficientnet_lite0.in1k --freeze_batch_norm --learning_rate 3e-4

The attribution map and the threshold of each method are chosen on the annotated rows of `--selection_split`, and then
applied to `--test_split`; MaxBoxAcc and MaxBoxAccV2 take the best threshold of the split they are measured on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Image, concatenate_datasets
from torchvision.transforms import v2
from transformers import AutoImageProcessor, AutoModelForImageClassification, set_seed

from hf_pgg import CutMix, MaskAblation, PGGTrainer, ResizeMix, add_provenance
from hf_pgg.cli.arguments import CompareArguments, ModelArguments, RecipeConfig
from hf_pgg.cli.options import parse_options, run_recipe
from hf_pgg.data.annotations import indices_with_boxes, mask_to_box, object_mask
from hf_pgg.data.images import decode_mask, encode_png, open_image, resize, to_rgb
from hf_pgg.data.labels import class_label
from hf_pgg.data.loading import open_dataset
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.data.provenance import CONTRACT_COLUMNS, IMAGE, PROVENANCE
from hf_pgg.demo_data import digits_on_photographs
from hf_pgg.localization.attribution import METHODS
from hf_pgg.localization.features import AttributionError
from hf_pgg.localization.images import LocalizationSettings, evaluate_localization
from hf_pgg.localization.score_maps import with_smoothing
from hf_pgg.metrics.compute_metrics import metrics_for
from hf_pgg.reports.comparison import chosen_maps, methods_of, report, result_cells, run_comparison, step_budget
from hf_pgg.reports.localization_figures import localization_figure
from hf_pgg.reports.record import hub_source, run_record, synthesis_settings
from hf_pgg.synthesis.puzzlemix import InputGradientSaliency, PuzzleMix
from hf_pgg.training.models import image_classifier

EMBEDDED = "digits on photographs"
FIGURE = "localization.png"
MIXES = {"cutmix": CutMix, "resizemix": ResizeMix, "puzzlemix": PuzzleMix}
REPORTED = {
    "max_box_acc_v2": ("MaxBoxAccV2", 100),
    "max_box_acc_v2_30": ("at 0.3", 100),
    "max_box_acc_v2_50": ("at 0.5", 100),
    "max_box_acc_v2_70": ("at 0.7", 100),
    "box_acc_v2": ("V2, threshold of selection", 100),
    "pixel_average_precision": ("PxAP", 100),
    "accuracy": ("top-1", 100),
    "target_gradient_share": ("target gradient share", 100),
}


@dataclass
class DataArguments:
    dataset_name: str | None = field(default=None, metadata={"help": "Hub id, folder or parquet file (embedded data)."})
    train_split: str = field(default="train", metadata={"help": "Split to train on: images and labels."})
    selection_split: str = field(default="train", metadata={"help": "Its annotated rows choose map and threshold."})
    test_split: str = field(default="test", metadata={"help": "Split to report on."})
    box_column: str = field(default="bbox", metadata={"help": "Boxes of the object; rows may have None."})
    box_format: str = field(
        default="xywh", metadata={"help": "Of the boxes, in pixels of the image.", "choices": ("xywh", "xyxy")}
    )
    mask_column: str | None = field(default=None, metadata={"help": "Mask of the object, for PxAP."})
    target_value: int | None = field(default=None, metadata={"help": "The object's value, if the mask is a label map."})
    ignore_value: int | None = field(default=None, metadata={"help": "Value of mask pixels that PxAP leaves out."})
    train_mask_column: str | None = field(default=None, metadata={"help": "Object's mask in training rows (none)."})
    labels_only: bool = field(default=False, metadata={"help": "Embedded data: forget the digits' masks."})


@dataclass
class SynthesisArguments:
    synthesis: str = field(
        default="cutmix", metadata={"help": "Method of the rows that are added.", "choices": (*MIXES, "none")}
    )
    synthesis_copies: int = field(default=1, metadata={"help": "Mixed rows for each training row."})
    keep_originals: bool = field(default=True, metadata={"help": "Train on the unmixed rows too."})
    saliency_model: str | None = field(
        default=None, metadata={"help": "puzzlemix: trained classifier that gives the saliency; --compare trains one."}
    )
    masks: str = field(
        default="true", metadata={"help": "Ablation of the provenance: true, random, whole, dilate:0.1, erode:0.3, ..."}
    )


@dataclass
class MapArguments:
    attributions: list[str] = field(
        default_factory=lambda: ["grad_cam", "guided_grad_cam", "input_gradient"],
        metadata={"help": "Maps to choose from.", "choices": tuple(METHODS)},
    )
    smoothing: float = field(default=0.05, metadata={"help": "Blur of gradient maps, as a share of the side."})


@dataclass
class LocalizationArguments(MapArguments, SynthesisArguments, DataArguments):
    """Everything that tells one run from another, beside the settings of training."""


@dataclass
class LocalizationConfig(RecipeConfig):
    """The recipe's defaults."""

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
    task = LocalizationArguments(**{name: value for part in asked for name, value in vars(part).items()})
    torch.set_flush_denormal(True)
    with config.main_process_first(desc="data"):
        data = load_data(task, config)
    known = PROVENANCE in data["train"].column_names
    copies = task.synthesis_copies + task.keep_originals if task.synthesis != "none" else 1
    config.max_steps = step_budget(config, copies * len(data["train"]))
    shown, saliency_models = {}, {}  # of the first seed; of every seed

    def run(name: str, args: LocalizationConfig) -> dict[str, Any]:
        with args.main_process_first(desc="mixing"):
            rows, settings = data["train"], None
            if name != "plain":
                rows, settings = mix(data["train"], task, args, task.saliency_model or saliency_models.get(args.seed))
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
            base_model=model_args.model_name_or_path,
            data_name=task.dataset_name or EMBEDDED,
            data_revision=hub_source(data["train"])[1],
            test_rows=len(data["test"]),
            synthesis="none" if name == "plain" else f"{task.synthesis} ({task.synthesis_copies} a row)",
            arguments=asdict(task),
            train_seconds=seconds,
            localization=localization,
            synthesis_settings=settings,
        )

    methods = methods_of(task.synthesis, config.alpha, compare.compare, known=known)
    records = run_comparison(config, methods, compare.seeds, run)
    if config.process_index == 0:
        boxes = {"box_column": task.box_column, "box_format": task.box_format}
        figure = localization_figure(shown, data["test"], smoothing=task.smoothing, **boxes)
        figure.savefig(Path(config.output_dir) / FIGURE, dpi=130)
        columns = {"map": chosen_maps, **result_cells(REPORTED)}
        report(records, columns, {FIGURE: "Maps, boxes (green) and true boxes (red)"}, config)


def load_data(task: LocalizationArguments, config: LocalizationConfig) -> DatasetDict:
    """Splits `train` (images and labels, at the model's input size), `selection` and `test` (with boxes).

    Images are in column `image` and labels in `label`, which `config` says afterwards.
    """
    if task.dataset_name is None:
        digits = digits_on_photographs(bias=0.1, seed=config.seed)
        boxed = {split: digits[split].map(_digit_annotations) for split in ("validation", "test")}
        known = [] if task.labels_only else list(CONTRACT_COLUMNS)
        train = digits["train"].select_columns(list(dict.fromkeys(["image", "label", *known])))
        task.mask_column = task.mask_column or "mask"
        return DatasetDict(train=train, selection=boxed["validation"], test=boxed["test"])
    names = {config.image_column: IMAGE, config.label_column: "label"}
    splits = {task.train_split, task.selection_split, task.test_split}
    parts = {split: open_dataset(task.dataset_name, split, columns=names) for split in sorted(splits)}
    config.image_column, config.label_column = IMAGE, "label"
    images = [IMAGE, *([task.train_mask_column] if task.train_mask_column else [])]
    train = parts[task.train_split].select_columns([*images, "label"])
    if config.image_size is not None:
        side = config.image_size  # squashed once, before mixing: the collator would crop

        def squash(row: dict[str, Any]) -> dict[str, Any]:
            arrays = {IMAGE: to_rgb(row[IMAGE])}
            arrays |= {name: decode_mask(row[name]) for name in images[1:]}
            return {name: encode_png(resize(array, (side, side))) for name, array in arrays.items()}

        train = train.map(squash, features=train.features)
    if task.train_mask_column:
        train = add_provenance(train, mask_column=task.train_mask_column)
    return DatasetDict(train=train, selection=parts[task.selection_split], test=parts[task.test_split])


def _digit_annotations(row: dict[str, Any]) -> dict[str, Any]:
    """The digit's mask as a column, and the box around it."""
    mask = decode_mask(row["provenance"][0]) > 127
    return {"bbox": [float(value) for value in mask_to_box(mask)], "mask": encode_png(mask), "provenance": None}


def mix(
    train: Dataset, task: LocalizationArguments, args: LocalizationConfig, saliency_model: str | None
) -> tuple[Dataset, dict[str, Any] | None]:
    """The training rows (unless `keep_originals` is off), followed by mixed ones with provenance; and the settings."""
    if task.synthesis == "none":
        return train, None
    options = {}
    if task.synthesis == "puzzlemix":
        if saliency_model is None:
            raise ValueError(
                "--synthesis puzzlemix needs --saliency_model (a classifier of these classes) or --compare"
            )
        model = AutoModelForImageClassification.from_pretrained(saliency_model, dtype=torch.float32)
        processor = AutoImageProcessor.from_pretrained(saliency_model)
        options["saliency"] = InputGradientSaliency(model, InputSpec.from_processor(processor, args.image_size))
    parts = [train] if task.keep_originals else []
    for copy in range(task.synthesis_copies):
        method = MIXES[task.synthesis](source=train, seed=args.seed, epoch=copy, **options)
        rows = method.map(train)
        if task.masks != "true":
            rows = MaskAblation.named(task.masks, seed=args.seed, epoch=copy).map(rows)
        parts.append(rows)
    return concatenate_datasets(parts), synthesis_settings(method)


def train(
    rows: Dataset, args: LocalizationConfig, model_args: ModelArguments, task: LocalizationArguments
) -> tuple[PGGTrainer, float]:
    """Trains one classifier on labels alone; also the seconds it took."""
    set_seed(args.seed)
    classes = class_label(rows.features, args.label_column)
    model, processor = image_classifier(classes, args.image_size, **asdict(model_args))
    if any(isinstance(module, torch.nn.Conv2d) for module in model.modules()):
        model = model.to(memory_format=torch.channels_last)
    trainer = PGGTrainer(
        model,
        args,
        augment=None if task.dataset_name is None else v2.RandomHorizontalFlip(),
        train_dataset=rows,
        processing_class=processor,
        compute_metrics=metrics_for(None),
    )
    print(f"--- {Path(args.output_dir).name}: {len(rows)} rows, {args.max_steps} steps, alpha {args.alpha}", flush=True)
    return trainer, trainer.train().metrics["train_runtime"]


def evaluate(
    trainer: PGGTrainer, data: DatasetDict, task: LocalizationArguments
) -> tuple[dict[str, float], dict[str, Any]]:
    """Top-1 on all test rows, localization on the annotated ones; with the map and threshold that `selection` chose."""
    model, spec = trainer.model, trainer.data_collator.spec
    boxes = LocalizationSettings(box_column=task.box_column, box_format=task.box_format)
    masks = {"mask_column": task.mask_column, "target_value": task.target_value, "ignore_value": task.ignore_value}
    selection, on_test = {}, {}
    for name in task.attributions:
        method = with_smoothing(name, task.smoothing)
        try:
            found = evaluate_localization(model, spec, data["selection"], method, replace(boxes, delta=0.02))
        except AttributionError as error:
            print(f"{name}: not for this model ({error})")
            continue
        settings = replace(boxes, threshold=found, **masks)
        selection[name], on_test[name] = found, evaluate_localization(model, spec, data["test"], method, settings)
    chosen = max(selection, key=lambda name: selection[name]["max_box_acc_v2"])
    results = dict(on_test[chosen])
    plain = data["test"].select_columns([IMAGE, "label"])
    results["accuracy"] = trainer.evaluate(plain, metric_key_prefix="test")["test_accuracy"]
    if task.mask_column:
        boxed = data["test"].select(indices_with_boxes(data["test"], task.box_column))
        guided = squashed_with_masks(boxed, spec.size, task)
        measured = trainer.evaluate(guided, metric_key_prefix="test")
        results["target_gradient_share"] = measured["test_target_gradient_share"]
    threshold = selection[chosen]["best_threshold"]
    return results, {"map": chosen, "threshold": threshold, "selection": selection, "test": on_test}


def squashed_with_masks(rows: Dataset, size: tuple[int, int], task: LocalizationArguments) -> Dataset:
    """The rows that have a mask, at the model's size, masks as provenance: for the target gradient share.

    Where a label map marks an uncertain border, it counts as outside.
    """
    rows = rows.filter(lambda mask: mask is not None, input_columns=[task.mask_column])

    def squash(row: dict[str, Any]) -> dict[str, Any]:
        values = np.array(open_image(row[task.mask_column]))
        target = object_mask(values, task.target_value)
        return {
            IMAGE: encode_png(resize(to_rgb(row[IMAGE]), size)),
            "object": encode_png(resize(target.astype(np.float32), size)),
        }

    features = rows.features.copy()
    features["object"] = Image()
    squashed = rows.map(squash, features=features)
    return add_provenance(squashed.select_columns([IMAGE, "label", "object"]), mask_column="object")


if __name__ == "__main__":
    run_recipe(main)
