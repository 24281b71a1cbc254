"""Spatio-temporal action localization: VideoMAE trained on clip labels, its maps measured against tubes.

    accelerate launch recipes/train_stal.py --compare

trains on the embedded clips (real digits moving over real photographs, labelled by their motion) plainly, with the
actor put on other scenes, and with that and guidance; prints one table, and writes checkpoints, `results.json`, and for
each method the same test clips with map and tube as `clips.gif`. Boxes are never trained on; masks serve synthesis.

    accelerate launch recipes/train_stal.py --dataset_name my/clips --mask_column masks --box_column bboxes --compare \\
        --model_name_or_path MCG-NJU/videomae-base --image_size 224 --num_frames 16 --learning_rate 5e-5
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clip_maps import clip_images, save_animation
from comparison import arguments_of, check_attributions, methods_of, step_budget, table
from datasets import ClassLabel, Dataset, DatasetDict, Image, List, concatenate_datasets
from joined_clips import hold_out
from torchvision.transforms import v2
from train_cls import RecipeConfig, metrics_for, open_dataset, push_records, run_record, write_records
from transformers import (
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    HfArgumentParser,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEVideoProcessor,
    set_seed,
)

from hf_pgg import MaskAblation, PGGTrainer, add_provenance
from hf_pgg.data.annotations import read_clip_masks
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import encode_mask, encode_png
from hf_pgg.data.labels import class_label
from hf_pgg.data.provenance import VIDEO, ProvenanceError
from hf_pgg.data.video import sample_clip
from hf_pgg.demo_data import OTHER_PHOTOGRAPHS, digits_in_motion, photographs
from hf_pgg.localization.clips import ClipMap, clip_maps, measure_maps
from hf_pgg.localization.in_time import measure_joined
from hf_pgg.reports.record import hub_source, synthesis_settings
from hf_pgg.synthesis.actor_composite import ActorComposite
from hf_pgg.synthesis.tilemix import TileMix
from hf_pgg.synthesis.videomix import VideoMix

EMBEDDED = "digits in motion"
CLIPS = "clips.gif"
SYNTHESES = ("actor", "videomix", "tilemix", "none")
REPORTED = {
    "accuracy": ("clip accuracy", 100),
    "frame_mAP@0.5": ("frame-mAP@0.5", 1),
    "frame_mAP@0.5_centre": ("the same, of central boxes", 1),
    "video_mAP@0.2": ("video-mAP@0.2", 1),
    "video_mAP@0.5": ("video-mAP@0.5", 1),
    "temporal_iou": ("temporal IoU, joined clips", 100),
    "target_gradient_share": ("target gradient share", 100),
}


@dataclass
class ClipArguments:
    dataset_name: str | None = field(
        default=None, metadata={"help": "Hub id, local folder or parquet file; default: the embedded clips."}
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    test_split: str = field(default="test", metadata={"help": "Split to report on."})
    validation_share: float = field(default=0.2, metadata={"help": "Of the training clips: they choose the map."})
    source_column: str | None = field(
        default=None, metadata={"help": "The video that a clip was cut from; its clips stay on one side of validation."}
    )
    mask_column: str = field(default="masks", metadata={"help": "The actor's masks, for synthesis."})
    box_column: str = field(default="bboxes", metadata={"help": "Boxes [x, y, width, height] on every frame."})
    synthesis: str = field(default="actor", metadata={"help": f"One of {', '.join(SYNTHESES)}."})
    synthesis_copies: int = field(default=1, metadata={"help": "Synthesized clips for each training clip."})
    masks: str = field(default="true", metadata={"help": "Ablation of the provenance: true, random, whole, ..."})
    bias: float = field(default=0.9, metadata={"help": "Embedded clips: how often a motion is on its photograph."})
    attributions: list[str] = field(
        default_factory=lambda: ["grad_cam", "input_gradient"], metadata={"help": "Maps to choose from."}
    )
    smoothing: list[float] = field(
        default_factory=lambda: [0.06], metadata={"help": "Blurs of gradient maps to choose from, in sides."}
    )
    over_time: list[float] = field(
        default_factory=lambda: [0.0], metadata={"help": "Blurs of maps over a clip's frames to choose from: 0 1."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id or local checkpoint; default: a small VideoMAE from scratch."}
    )
    patch_size: int = field(default=8, metadata={"help": "Side of the small VideoMAE's patches, in pixels."})
    joined: bool = field(
        default=False, metadata={"help": "Also measure when: on clips joined in time, as long again as the rest."}
    )
    joined_stride: int | None = field(
        default=None, metadata={"help": "Frames between windows of joined clips; default: an eighth of a window."}
    )
    compare: bool = field(default=False, metadata={"help": "Train plainly, with synthesis, and with guidance."})
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds; the table gives mean and spread."})


@dataclass
class ClipConfig(RecipeConfig):
    """The recipe's defaults for clips."""

    output_dir: str | None = field(default="out/train_stal", metadata={"help": "Where everything is written."})
    video_column: str | None = field(default="video", metadata={"help": "Column of the clips."})
    num_frames: int | None = field(default=8, metadata={"help": "Frames that the model sees, taken evenly."})
    image_size: int | None = field(default=32, metadata={"help": "Side of the frames, in pixels."})
    num_train_epochs: float = field(default=7, metadata={"help": "Passes over the synthesized training clips."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Clips a step and device."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak step size of AdamW."})
    alpha: float = field(default=1.0, metadata={"help": "Weight of the guidance loss."})


def main() -> None:
    parser = HfArgumentParser((ClipArguments, ClipConfig))
    task, config = parser.parse_args_into_dataclasses()
    torch.set_flush_denormal(True)
    if task.synthesis not in SYNTHESES:
        raise SystemExit(f"--synthesis {task.synthesis}: choose {', '.join(SYNTHESES)}")
    check_attributions(task.attributions)
    with config.main_process_first(desc="data"):
        data = load_data(task, config)
        source = hub_source(data["train"])
    methods = methods_of(task.synthesis, config.alpha, task.compare)

    records = []
    for seed in task.seeds:
        for name, alpha in methods.items():
            args = arguments_of(config, name, alpha, seed, task.seeds)
            with args.main_process_first(desc="synthesis"):
                rows, settings = data["train"], None
                if name != "plain":
                    rows, settings = synthesize(data["train"], task, args)
            copies = 1 + (task.synthesis_copies if task.synthesis != "none" else 0)
            args.max_steps = step_budget(args, copies * len(data["train"]))
            trainer, seconds = train(rows, args, task)
            trainer.save_model()  # an annotation that cannot be measured does not cost the training
            record = evaluate(trainer, data, task, name, seconds)
            record["data"]["revision"] = source[1]
            if settings is not None:
                record["synthesis"] = settings
            records.append(record)
            if trainer.is_world_process_zero():
                frames = clip_images(
                    trainer.model,
                    trainer.data_collator.spec,
                    data["test"],
                    record["localization"],
                    FrameSampler(args.num_frames),
                    box_column=task.box_column,
                )
                save_animation(frames, Path(args.output_dir) / CLIPS)
    if trainer.is_world_process_zero():
        out = Path(config.output_dir)
        write_records(records, {CLIPS: "Test clips: map, tube (green) and true box (red)"}, out)
        push_records(records, out, config.hub_token)
        print(table(records, REPORTED))
        print(f"written: {out}/results.json, {out}/*/{CLIPS}")


# ---------------------------------------------------------------------------------------------- data


def load_data(task: ClipArguments, config: ClipConfig) -> DatasetDict:
    """`train` (clips of T small frames, labels, masks), and with all their frames and boxes `validation` and `test`.

    Clips are in column `video` and labels in `label`, which `config` says afterwards.
    """
    if task.dataset_name is not None:
        names = {str(config.video_column): VIDEO, config.label_column: "label"}
        train, test = (open_dataset(task.dataset_name, s, columns=names) for s in (task.train_split, task.test_split))
        config.video_column, config.label_column = VIDEO, "label"
        return split_and_sample(train, test, task, config)
    clips = digits_in_motion(bias=task.bias, seed=config.seed, size=config.image_size, num_frames=config.num_frames)
    return DatasetDict({**clips, "train": sampled(clips["train"], task, config)})


def split_and_sample(train: Dataset, test: Dataset, task: ClipArguments, config: ClipConfig) -> DatasetDict:
    """`load_data` for clips at hand: sets a part of `train` aside for validation, by class and source."""
    rest, validation = hold_out(train, task.validation_share, task.source_column)
    return DatasetDict(train=sampled(rest, task, config), validation=validation, test=test)


def sampled(rows: Dataset, task: ClipArguments, config: ClipConfig) -> Dataset:
    """The T frames that the model sees and their masks, squashed to its size: decoded once, not every epoch."""
    size = (config.image_size, config.image_size)
    rows = rows.select_columns([VIDEO, "label", task.mask_column])

    def sample(row: dict[str, Any], index: int) -> dict[str, Any]:
        try:
            found = sample_clip(row[VIDEO], FrameSampler(config.num_frames), np.random.default_rng(0), size)
            masks = read_clip_masks(row[task.mask_column], found)
        except (ValueError, OSError) as error:
            remedy = "Mend or drop the row."
            raise ProvenanceError(index, f"{VIDEO} or {task.mask_column}", str(error), remedy) from error
        return {VIDEO: [encode_png(frame) for frame in found.frames], task.mask_column: encode_mask(masks)}

    features = rows.features.copy()
    features[VIDEO], features[task.mask_column] = List(Image()), Image()
    return rows.map(sample, with_indices=True, features=features).cast_column(VIDEO, List(Image(decode=False)))


def synthesize(train: Dataset, task: ClipArguments, args: ClipConfig) -> tuple[Dataset, dict[str, Any]]:
    """The training clips, followed by synthesized ones with provenance; and the method's settings."""
    sampler = FrameSampler(args.num_frames)
    parts = [train]
    for copy in range(task.synthesis_copies):
        common = {"seed": args.seed, "epoch": copy, "sampler": sampler}
        if task.synthesis == "actor":
            # other scenes: photographs that no motion is tied to, or the scenes of all other clips
            scenes = photographs(OTHER_PHOTOGRAPHS) if task.dataset_name is None else train
            flip = 0.0 if task.dataset_name is None else 0.5  # a mirrored motion is another motion
            method: Any = ActorComposite(backgrounds=scenes, mask_column=task.mask_column, flip=flip, **common)
        else:
            method = {"videomix": VideoMix, "tilemix": TileMix}[task.synthesis](source=train, **common)
        rows = method.map(train)
        if task.masks != "true":
            rows = MaskAblation.named(task.masks, seed=args.seed, epoch=copy, video_column=VIDEO).map(rows)
        parts.append(rows.cast_column(VIDEO, List(Image(decode=False))))
    return concatenate_datasets(parts), synthesis_settings(method)


# ---------------------------------------------------------------------------------------------- training


def load_model(task: ClipArguments, config: ClipConfig, label: ClassLabel) -> tuple[Any, Any]:
    """A checkpoint with a new head, or a small VideoMAE from scratch, and its processor."""
    labels = {
        "num_labels": label.num_classes,
        "id2label": dict(enumerate(label.names)),
        "label2id": {name: i for i, name in enumerate(label.names)},
    }
    if task.model_name_or_path is not None:
        model = AutoModelForVideoClassification.from_pretrained(
            task.model_name_or_path, dtype=torch.float32, ignore_mismatched_sizes=True, **labels
        )
        return model, AutoVideoProcessor.from_pretrained(task.model_name_or_path)
    size = config.image_size
    shape = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 288}
    model = VideoMAEForVideoClassification(
        VideoMAEConfig(
            **shape, image_size=size, patch_size=task.patch_size, num_frames=config.num_frames, tubelet_size=2, **labels
        )
    )
    return model, VideoMAEVideoProcessor(size={"height": size, "width": size}, do_center_crop=False)


def augmentation(size: int) -> v2.Transform:
    """Crops, flips and colours, one draw for all frames of a clip and their masks.

    The embedded clips have none: flipped or cut off, a motion of theirs is another one.
    """
    crop = v2.RandomResizedCrop((size, size), scale=(0.4, 1.0), antialias=True)
    colour = [v2.ColorJitter(0.4, 0.4, 0.4), v2.RandomGrayscale(0.2)]
    return v2.Compose([crop, v2.RandomHorizontalFlip(), *colour])


def train(rows: Dataset, args: ClipConfig, task: ClipArguments) -> tuple[PGGTrainer, float]:
    """Trains one classifier on clip labels; also the seconds it took."""
    set_seed(args.seed)
    model, processor = load_model(task, args, class_label(rows.features, "label"))
    trainer = PGGTrainer(
        model,
        args,
        augment=None if task.dataset_name is None else augmentation(args.image_size),
        train_dataset=rows,
        processing_class=processor,
        compute_metrics=metrics_for(None),
    )
    print(
        f"--- {Path(args.output_dir).name}: {len(rows)} clips, {args.max_steps} steps, alpha {args.alpha}", flush=True
    )
    return trainer, trainer.train().metrics["train_runtime"]


def evaluate(trainer: PGGTrainer, data: DatasetDict, task: ClipArguments, name: str, seconds: float) -> dict[str, Any]:
    """The test clips' figures, with the map and the threshold that validation clips choose."""
    args, model, spec = trainer.args, trainer.model, trainer.data_collator.spec
    sampler = FrameSampler(args.num_frames)
    maps = clip_maps(task.attributions, task.smoothing, task.over_time)
    results, localization = measure_maps(model, spec, data, maps, sampler, box_column=task.box_column)
    known = add_provenance(sampled(data["test"], task, args), mask_column=task.mask_column, video_column=VIDEO)
    figures = trainer.evaluate(known, metric_key_prefix="test")
    results["target_gradient_share"] = figures["test_target_gradient_share"]
    if task.joined:
        chosen = ClipMap(*(localization[key] for key in ("map", "smoothing", "over_time")))
        joined = measure_joined(
            model,
            spec,
            data,
            chosen.method,
            FrameSampler(model.config.num_frames),
            stride=task.joined_stride,
            box_column=task.box_column,
        )
        results |= {key: joined.pop(key) for key in ("temporal_iou", "temporal_iou_untrimmed")}
        localization["joined"] = joined
    record = run_record(
        trainer,
        results,
        method=name,
        base_model=task.model_name_or_path,
        data_name=task.dataset_name or EMBEDDED,
        test_rows=len(data["test"]),
        synthesis="none" if name == "plain" else f"{task.synthesis} ({task.synthesis_copies} a clip)",
        arguments=asdict(task),
        train_seconds=seconds,
    )
    record["localization"] = localization
    return record


if __name__ == "__main__":
    main()
