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

import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image, List, concatenate_datasets
from torchvision.transforms import v2
from transformers import AutoModelForVideoClassification, AutoVideoProcessor, VideoMAEConfig, VideoMAEVideoProcessor
from transformers.trainer_utils import set_seed

from hf_pgg import ActorComposite, MaskAblation, PGGTrainer, TileMix, VideoMix, add_provenance
from hf_pgg.cli.arguments import CompareArguments, RecipeConfig
from hf_pgg.cli.options import parse_options, run_recipe
from hf_pgg.data.annotations import sampled_clips
from hf_pgg.data.boxes import BOX_FORMATS
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.groups import hold_out
from hf_pgg.data.labels import class_label
from hf_pgg.data.loading import open_dataset
from hf_pgg.data.provenance import VIDEO
from hf_pgg.demo_data import OTHER_PHOTOGRAPHS, digits_in_motion, photographs
from hf_pgg.localization.attribution import METHODS
from hf_pgg.localization.clips import ClipMap, clip_maps, measure_maps
from hf_pgg.localization.in_time import measure_joined
from hf_pgg.metrics.compute_metrics import metrics_for
from hf_pgg.reports.comparison import chosen_maps, methods_of, report, result_cells, run_comparison, step_budget
from hf_pgg.reports.localization_figures import save_clip_animation
from hf_pgg.reports.record import hub_source, run_record, synthesis_settings
from hf_pgg.training.models import head_options

EMBEDDED = "digits in motion"
CLIPS = "clips.gif"
MAPS = ["grad_cam", "input_gradient"]
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
class DataArguments:
    dataset_name: str | None = field(default=None, metadata={"help": "Hub id, folder or parquet file (embedded)."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    test_split: str = field(default="test", metadata={"help": "Split to report on."})
    validation_share: float = field(default=0.2, metadata={"help": "Of the training clips: they choose the map."})
    source_column: str | None = field(default=None, metadata={"help": "Video that a clip was cut from, never split."})
    mask_column: str = field(default="masks", metadata={"help": "The actor's masks, for synthesis."})
    box_column: str = field(default="bboxes", metadata={"help": "Boxes of the actor, one on every frame."})
    box_format: str | None = field(default=None, metadata={"help": "What a box's numbers are.", "choices": BOX_FORMATS})
    bias: float = field(default=0.9, metadata={"help": "Embedded clips: how often a motion is on its photograph."})


@dataclass
class SynthesisArguments:
    synthesis: str = field(default="actor", metadata={"help": "Method of the clips added.", "choices": SYNTHESES})
    synthesis_copies: int = field(default=1, metadata={"help": "Synthesized clips for each training clip."})
    masks: str = field(default="true", metadata={"help": "Ablation of the provenance: true, random, whole, ..."})


@dataclass
class MapArguments:
    attributions: list[str] = field(default_factory=lambda: MAPS, metadata={"help": "The choice.", "choices": METHODS})
    smoothing: list[float] = field(default_factory=lambda: [0.06], metadata={"help": "Blurs to choose from, in sides."})
    over_time: list[float] = field(default_factory=lambda: [0.0], metadata={"help": "Blurs over time to choose from."})
    joined: bool = field(default=False, metadata={"help": "Also measure when: on clips joined in time; slow."})
    joined_stride: int | None = field(default=None, metadata={"help": "Frames between windows (1/8 of a window)."})


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(default=None, metadata={"help": "Hub id or folder (a small VideoMAE)."})
    patch_size: int = field(default=8, metadata={"help": "Side of the small VideoMAE's patches, in pixels."})


@dataclass
class ClipArguments(ModelArguments, MapArguments, SynthesisArguments, DataArguments):
    """Everything that tells one run from another, beside the settings of training."""


@dataclass
class ClipConfig(RecipeConfig):
    video_column: str | None = field(default="video", metadata={"help": "Column of the clips."})
    num_frames: int | None = field(default=8, metadata={"help": "Frames that the model sees, taken evenly."})
    image_size: int | None = field(default=32, metadata={"help": "Side of the frames, in pixels."})
    num_train_epochs: float = field(default=7, metadata={"help": "Passes over the synthesized training clips."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Clips a step and device."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak step size of AdamW."})
    alpha: float = field(default=1.0, metadata={"help": "Weight of the guidance loss."})


def main() -> None:
    groups = {
        "data": DataArguments,
        "synthesis": SynthesisArguments,
        "maps": MapArguments,
        "model": ModelArguments,
        "methods": CompareArguments,
        "guidance": ClipConfig,
    }
    *asked, compare, config = parse_options(groups, description=__doc__)
    task = ClipArguments(**{name: value for part in asked for name, value in vars(part).items()})
    torch.set_flush_denormal(True)
    with config.main_process_first(desc="data"):
        data = load_data(task, config)
    copies = 1 + (task.synthesis_copies if task.synthesis != "none" else 0)
    config.max_steps = step_budget(config, copies * len(data["train"]))

    def run(name: str, args: ClipConfig) -> dict[str, Any]:
        with args.main_process_first(desc="synthesis"):
            rows, settings = (data["train"], None) if name == "plain" else synthesize(data["train"], task, args)
        trainer, seconds = train(rows, args, task)
        trainer.save_model()  # an annotation that cannot be measured does not cost the training
        results, localization = evaluate(trainer, data, task)
        if trainer.is_world_process_zero():
            drawn = (trainer.model, trainer.data_collator.spec, data["test"], localization)
            boxes = {"box_column": task.box_column, "box_format": task.box_format}
            save_clip_animation(Path(args.output_dir) / CLIPS, *drawn, FrameSampler(args.num_frames), **boxes)
        return run_record(
            trainer,
            results,
            method=name,
            base_model=task.model_name_or_path or False,
            data_name=task.dataset_name or EMBEDDED,
            data_revision=hub_source(data["train"])[1],
            test_rows=len(data["test"]),
            synthesis="none" if name == "plain" else f"{task.synthesis} ({task.synthesis_copies} a clip)",
            arguments=asdict(task),
            train_seconds=seconds,
            localization=localization,
            synthesis_settings=settings,
        )

    records = run_comparison(config, methods_of(task.synthesis, config.alpha, compare.compare), compare.seeds, run)
    if config.process_index == 0:
        figures = {CLIPS: "Test clips: map, tube (green) and true box (red)"}
        report(records, {"map": chosen_maps, **result_cells(REPORTED)}, figures, config)


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
    rest, validation = hold_out(train, task.validation_share, "label", task.source_column)
    return DatasetDict(train=sampled(rest, task, config), validation=validation, test=test)


def sampled(rows: Dataset, task: ClipArguments, config: ClipConfig) -> Dataset:
    """What the model sees of clips: T small frames, and their masks."""
    rows = rows.select_columns([VIDEO, "label", task.mask_column])
    return sampled_clips(rows, FrameSampler(config.num_frames), config.image_size, mask_column=task.mask_column)


def synthesize(train: Dataset, task: ClipArguments, args: ClipConfig) -> tuple[Dataset, dict[str, Any]]:
    """The training clips, followed by synthesized ones with provenance; and the method's settings."""
    parts = [train]
    for copy in range(task.synthesis_copies):
        common = {"seed": args.seed, "epoch": copy, "sampler": FrameSampler(args.num_frames)}
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


def load_model(task: ClipArguments, config: ClipConfig, label: ClassLabel) -> tuple[Any, Any]:
    """A checkpoint with a new head, or a small VideoMAE from scratch, and its processor."""
    name, size, head = task.model_name_or_path, config.image_size, head_options(label)
    if name is not None:
        processor = AutoVideoProcessor.from_pretrained(name)
        options = {"dtype": torch.float32, "ignore_mismatched_sizes": True, **head}
        return AutoModelForVideoClassification.from_pretrained(name, **options), processor
    shape = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 288}
    frames = {"image_size": size, "patch_size": task.patch_size, "num_frames": config.num_frames, "tubelet_size": 2}
    model = AutoModelForVideoClassification.from_config(VideoMAEConfig(**shape, **frames, **head))
    return model, VideoMAEVideoProcessor(size={"height": size, "width": size}, do_center_crop=False)


def train(rows: Dataset, args: ClipConfig, task: ClipArguments) -> tuple[PGGTrainer, float]:
    """Trains one classifier on clip labels; also the seconds it took."""
    set_seed(args.seed)
    model, processor = load_model(task, args, class_label(rows.features, "label"))
    augment = None  # flipped or cut off, an embedded clip shows another motion
    if task.dataset_name is not None:
        crop = v2.RandomResizedCrop((args.image_size, args.image_size), scale=(0.4, 1.0), antialias=True)
        colour = [v2.ColorJitter(0.4, 0.4, 0.4), v2.RandomGrayscale(0.2)]
        augment = v2.Compose([crop, v2.RandomHorizontalFlip(), *colour])
    trainer = PGGTrainer(
        model, args, augment=augment, train_dataset=rows, processing_class=processor, compute_metrics=metrics_for()
    )
    print(f"--- {Path(args.output_dir).name}: {len(rows)} rows, {args.max_steps} steps, alpha {args.alpha}", flush=True)
    return trainer, trainer.train().metrics["train_runtime"]


def evaluate(trainer: PGGTrainer, data: DatasetDict, task: ClipArguments) -> tuple[dict[str, float], dict[str, Any]]:
    """The test clips' results, with the map and the threshold that validation clips choose; and what was chosen."""
    args, model, spec = trainer.args, trainer.model, trainer.data_collator.spec
    sampler = FrameSampler(args.num_frames)
    boxes = {"box_column": task.box_column, "box_format": task.box_format}
    maps = clip_maps(task.attributions, task.smoothing, task.over_time)
    results, localization = measure_maps(model, spec, data, maps, sampler, **boxes)
    known = add_provenance(sampled(data["test"], task, args), mask_column=task.mask_column, video_column=VIDEO)
    results["target_gradient_share"] = trainer.evaluate(known)["eval_target_gradient_share"]
    if task.joined:
        method = ClipMap(*(localization[key] for key in ("map", "smoothing", "over_time"))).method
        localization["joined"] = measure_joined(model, spec, data, method, sampler, stride=task.joined_stride, **boxes)
        results |= {key: localization["joined"].pop(key) for key in ("temporal_iou", "temporal_iou_untrimmed")}
    return results, localization


if __name__ == "__main__":
    run_recipe(main)
