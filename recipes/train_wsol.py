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

import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison import arguments_of, check_attributions, methods_of, step_budget, table
from datasets import Dataset, DatasetDict, Image, concatenate_datasets
from matplotlib.figure import Figure
from torchvision.transforms import v2
from train_cls import (
    ModelArguments,
    RecipeConfig,
    load_model,
    metrics_for,
    open_dataset,
    push_records,
    run_record,
    write_records,
)
from transformers import AutoImageProcessor, AutoModelForImageClassification, HfArgumentParser, set_seed

from hf_pgg import CutMix, MaskAblation, PGGTrainer, ResizeMix, add_provenance
from hf_pgg.data.annotations import indices_with_boxes, mask_to_box, object_mask
from hf_pgg.data.images import decode_mask, encode_png, open_image, resize, to_rgb
from hf_pgg.data.labels import class_label
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.data.provenance import CONTRACT_COLUMNS, IMAGE, PROVENANCE
from hf_pgg.demo_data import digits_on_photographs
from hf_pgg.localization.features import AttributionError
from hf_pgg.localization.images import LocalizationSettings, box_of_map, evaluate_localization
from hf_pgg.localization.score_maps import score_maps, with_smoothing
from hf_pgg.reports.figures import draw
from hf_pgg.reports.record import hub_source, synthesis_settings
from hf_pgg.synthesis.puzzlemix import InputGradientSaliency, PuzzleMix

EMBEDDED = "digits on photographs"
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
class LocalizationArguments:
    dataset_name: str | None = field(
        default=None, metadata={"help": "Hub id, local folder or parquet file; default: the embedded data."}
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on: images and labels."})
    selection_split: str = field(
        default="train", metadata={"help": "Split whose annotated rows choose the map and the threshold."}
    )
    test_split: str = field(default="test", metadata={"help": "Split to report on."})
    box_column: str = field(default="bbox", metadata={"help": "Boxes of the object; rows may have None."})
    box_format: str = field(default="xywh", metadata={"help": "xywh or xyxy, in pixels of the image."})
    mask_column: str | None = field(default=None, metadata={"help": "Mask of the object, for PxAP."})
    target_value: int | None = field(default=None, metadata={"help": "The object's value, if the mask is a label map."})
    ignore_value: int | None = field(default=None, metadata={"help": "Value of mask pixels that PxAP leaves out."})
    train_mask_column: str | None = field(
        default=None,
        metadata={"help": "Object's mask in training rows: a cut-out's alpha, a saliency model's; a mix carries it."},
    )
    labels_only: bool = field(
        default=False, metadata={"help": "Embedded data: forget the digits' masks; a mix knows its parts alone."}
    )
    synthesis: str = field(default="cutmix", metadata={"help": "cutmix, resizemix, puzzlemix or none."})
    synthesis_copies: int = field(default=1, metadata={"help": "Mixed rows for each training row."})
    keep_originals: bool = field(default=True, metadata={"help": "Train on the unmixed rows too."})
    saliency_model: str | None = field(
        default=None, metadata={"help": "puzzlemix: trained classifier that gives the saliency; --compare trains one."}
    )
    masks: str = field(
        default="true", metadata={"help": "Ablation of the provenance: true, random, whole, dilate:0.1, erode:0.3, ..."}
    )
    attributions: list[str] = field(
        default_factory=lambda: ["grad_cam", "guided_grad_cam", "input_gradient"],
        metadata={"help": "Maps to choose from, names of hf_pgg.localization.attribution.METHODS."},
    )
    smoothing: float = field(default=0.05, metadata={"help": "Blur of gradient maps, as a share of the side."})


@dataclass
class CompareArguments:
    compare: bool = field(default=False, metadata={"help": "Train plainly, with mixing alone, and with guidance."})
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds; the table gives mean and spread."})


@dataclass
class LocalizationConfig(RecipeConfig):
    """The recipe's defaults."""

    output_dir: str | None = field(default="out/train_wsol", metadata={"help": "Where everything is written."})
    alpha: float = field(default=1.0, metadata={"help": "Weight of the guidance loss."})


def main() -> None:
    parser = HfArgumentParser((LocalizationArguments, ModelArguments, CompareArguments, LocalizationConfig))
    if len(sys.argv) == 2 and sys.argv[1].endswith((".yaml", ".yml", ".json")):
        read = parser.parse_json_file if sys.argv[1].endswith(".json") else parser.parse_yaml_file
        task, model_args, compare, config = read(sys.argv[1])
    else:
        task, model_args, compare, config = parser.parse_args_into_dataclasses()
    torch.set_flush_denormal(True)
    if task.synthesis not in (*MIXES, "none"):
        raise SystemExit(f"--synthesis {task.synthesis}: choose none, {', '.join(MIXES)}")
    check_attributions(task.attributions)
    with config.main_process_first(desc="data"):
        data = load_data(task, config)
        source = hub_source(data["train"])
    known = PROVENANCE in data["train"].column_names
    methods = methods_of(task.synthesis, config.alpha, compare.compare, known=known)
    records, trained = [], {}
    for seed in compare.seeds:
        saliency_model = task.saliency_model
        for name, alpha in methods.items():
            args = arguments_of(config, name, alpha, seed, compare.seeds)
            with args.main_process_first(desc="mixing"):
                rows, settings = data["train"], None
                if name != "plain":
                    rows, settings = mix(data["train"], task, args, saliency_model)
            copies = task.synthesis_copies + task.keep_originals if task.synthesis != "none" else 1
            args.max_steps = step_budget(args, copies * len(data["train"]))
            trainer, seconds = train(rows, args, model_args, task)
            trainer.save_model()  # an annotation that cannot be measured does not cost the training
            record = evaluate(trainer, data, task, name, model_args.model_name_or_path, seconds)
            record["data"]["revision"] = source[1]
            if settings is not None:
                record["synthesis"] = settings
            if name == "plain":
                saliency_model = saliency_model or args.output_dir
            records.append(record)
            if seed == compare.seeds[0]:
                trained[name] = (trainer.model, trainer.data_collator.spec, record["localization"])
    if trainer.is_world_process_zero():
        out = Path(config.output_dir)
        figure = comparison_figure(trained, data["test"], task)
        figure.savefig(out / "localization.png", dpi=130)
        write_records(records, {"localization.png": "Maps, boxes (green) and true boxes (red)"}, out)
        push_records(records, out, config.hub_token)
        print(table(records, REPORTED))
        print(f"written: {out}/results.json, localization.png")


# ---------------------------------------------------------------------------------------------- data


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
            raise SystemExit(
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


# ---------------------------------------------------------------------------------------------- training


def train(
    rows: Dataset, args: LocalizationConfig, model_args: ModelArguments, task: LocalizationArguments
) -> tuple[PGGTrainer, float]:
    """Trains one classifier on labels alone; also the seconds it took."""
    set_seed(args.seed)
    model, processor = load_model(model_args, args, class_label(rows.features, args.label_column))
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
    trainer: PGGTrainer,
    data: DatasetDict,
    task: LocalizationArguments,
    name: str,
    base_model: str | None,
    seconds: float,
) -> dict[str, Any]:
    """Top-1 on all test rows; the map and threshold chosen on `selection`; localization on the annotated test rows."""
    spec = trainer.data_collator.spec
    boxes = LocalizationSettings(box_column=task.box_column, box_format=task.box_format)
    selection = {}
    for attribution in task.attributions:
        method = with_smoothing(attribution, task.smoothing)
        try:
            selection[attribution] = evaluate_localization(
                trainer.model, spec, data["selection"], method, replace(boxes, delta=0.02)
            )
        except AttributionError as error:
            print(f"{attribution}: not for this model ({error})")
    masks = {"mask_column": task.mask_column, "target_value": task.target_value, "ignore_value": task.ignore_value}
    on_test = {
        name: evaluate_localization(
            trainer.model,
            spec,
            data["test"],
            with_smoothing(name, task.smoothing),
            replace(boxes, threshold=found, **masks),
        )
        for name, found in selection.items()
    }
    chosen = max(selection, key=lambda key: selection[key]["max_box_acc_v2"])
    results = dict(on_test[chosen])
    plain = data["test"].select_columns([IMAGE, "label"])
    results["accuracy"] = trainer.evaluate(plain, metric_key_prefix="test")["test_accuracy"]
    if task.mask_column:
        boxed = data["test"].select(indices_with_boxes(data["test"], task.box_column))
        guided = squashed_with_masks(boxed, spec.size, task)
        measured = trainer.evaluate(guided, metric_key_prefix="test")
        results["target_gradient_share"] = measured["test_target_gradient_share"]
    record = run_record(
        trainer,
        results,
        method=name,
        base_model=base_model,
        data_name=task.dataset_name or EMBEDDED,
        test_rows=len(data["test"]),
        synthesis="none" if name == "plain" else f"{task.synthesis} ({task.synthesis_copies} a row)",
        arguments=asdict(task),
        train_seconds=seconds,
    )
    threshold = selection[chosen]["best_threshold"]
    record["localization"] = {"map": chosen, "threshold": threshold, "selection": selection, "test": on_test}
    return record


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


# ---------------------------------------------------------------------------------------------- reports


def comparison_figure(
    methods: dict[str, tuple[Any, InputSpec, dict[str, Any]]],
    test: Dataset,
    task: LocalizationArguments,
    count: int = 8,
) -> Figure:
    """The same test images under every method: map, box (green) and true box (red).

    Args:
        methods: Name to the model, its input, and its record's `localization` (map and threshold).
    """
    known = test.select(indices_with_boxes(test, task.box_column))
    rows = [known[int(i)] for i in np.linspace(0, len(known) - 1, min(count, len(known)))]
    images = [to_rgb(row[IMAGE]) for row in rows]
    labels = [row["label"] for row in rows]
    figure = Figure(figsize=(1.6 * len(rows), 1.75 * len(methods)), layout="constrained")
    grid = figure.subplots(len(methods), len(rows), squeeze=False)
    for line, (name, (model, spec, chosen)) in enumerate(methods.items()):
        scored = score_maps(model, spec, images, with_smoothing(chosen["map"], task.smoothing), labels)
        for axes, image, row, result in zip(grid[line], images, rows, scored, strict=True):
            box = box_of_map(result.score_map, chosen["threshold"], (image.shape[1], image.shape[0]))
            truth = np.atleast_2d(np.asarray(row[task.box_column], float))
            if task.box_format == "xyxy":
                truth = np.concatenate([truth[:, :2], truth[:, 2:] - truth[:, :2]], axis=1)
            axes.imshow(draw(image, result.score_map, box, truth=truth.tolist()))
            axes.set_xticks([])
            axes.set_yticks([])
        grid[line, 0].set_ylabel(name.replace(", ", ",\n") + f"\n{chosen['map']}", fontsize=7)
    return figure


if __name__ == "__main__":
    main()
