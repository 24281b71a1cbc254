"""Options that several recipes share; [`hf_pgg.cli.options.parse_options`] reads them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset
from transformers.trainer_utils import SaveStrategy, SchedulerType

from hf_pgg.data.boxes import BOX_FORMATS
from hf_pgg.data.formats import FORMATS
from hf_pgg.data.loading import Annotations, open_dataset
from hf_pgg.training.config import PGGConfig
from hf_pgg.training.models import ARCHITECTURES


@dataclass
class ModelArguments:
    """The image classifier that a recipe trains.

    Example:
        >>> ModelArguments("facebook/dinov2-small").model_revision
        'main'
    """

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id or local checkpoint; default: a small network from scratch."}
    )
    architecture: str = field(
        default="convnext", metadata={"help": "Of the network from scratch.", "choices": ARCHITECTURES}
    )
    model_revision: str = field(default="main", metadata={"help": "Revision of the checkpoint on the Hub."})


@dataclass
class CompareArguments:
    """Which methods and seeds a recipe trains.

    Example:
        >>> CompareArguments(compare=True).seeds
        [0]
    """

    compare: bool = field(
        default=False, metadata={"help": "Train plainly, with synthesis alone, and with synthesis and guidance."}
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds; the table gives mean and spread."})


@dataclass
class RecipeConfig(PGGConfig):
    """[`PGGConfig`] with the defaults of the recipes.

    Example:
        >>> RecipeConfig("out", use_cpu=True).lr_scheduler_type.value
        'cosine'
    """

    output_dir: str | None = field(
        default_factory=lambda: f"out/{Path(sys.argv[0]).stem}",
        metadata={"help": "Folder that everything is written to."},
    )
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Samples a step and device."})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "Samples a step in evaluation."})
    num_train_epochs: float = field(default=12, metadata={"help": "Passes over the rows, synthesized ones included."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak step size of AdamW."})
    lr_scheduler_type: str = field(
        default="cosine",
        metadata={"help": "Schedule of the step size.", "choices": [kind.value for kind in SchedulerType]},
    )
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps of warm-up, or their share if below 1."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of AdamW."})
    logging_steps: float = field(default=20, metadata={"help": "Steps between two logs."})
    save_strategy: str = field(
        default="no", metadata={"help": "When to save checkpoints.", "choices": [kind.value for kind in SaveStrategy]}
    )
    report_to: list[str] | None = field(default_factory=lambda: ["none"], metadata={"help": "Trackers to log to."})


@dataclass(kw_only=True)
class AnnotationArguments:
    """Annotations of images: beside a folder, which `dataset_name` then names, or in a column of objects.

    Example:
        >>> AnnotationArguments(annotations="instances_{split}.json").annotated
        Annotations(path='instances_{split}.json', format='coco', names=[], box_format=None)
    """

    annotations: str | None = field(
        default=None, metadata={"help": "Their file, folder ('{split}' is filled in) or column."}
    )
    annotation_format: str = field(default="coco", metadata={"help": "Of --annotations.", "choices": FORMATS})
    class_names: list[str] = field(default_factory=list, metadata={"help": "Of --annotations, in order (YOLO, VOC)."})
    box_format: str | None = field(default=None, metadata={"help": "What a box's numbers are.", "choices": BOX_FORMATS})

    @property
    def annotated(self) -> Annotations | None:
        """What [`~hf_pgg.data.loading.open_dataset`] is told of them."""
        found = (self.annotation_format, self.class_names, self.box_format)
        return Annotations(self.annotations, *found) if self.annotations else None


@dataclass
class PromptedDataArguments(AnnotationArguments):
    """The real images that a generator learns from or starts from, and what it is asked for of each.

    Example:
        >>> PromptedDataArguments("my/photos", prompts=["a photo of a {class}"]).split
        'train'
    """

    dataset_name: str = field(metadata={"help": "Hub id, local folder or parquet file of real images."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    split: str = field(default="train", metadata={"help": "Split of the data set."})
    image_column: str = field(default="image", metadata={"help": "The images."})
    label_column: str = field(default="label", metadata={"help": "ClassLabel of the images."})
    prompts: list[str] = field(
        default_factory=list, metadata={"help": "Templates with {class} and columns, e.g. {caption}."}
    )
    prompt_file: str | None = field(default=None, metadata={"help": "Templates from a text file, one a line."})

    def open_rows(self, *class_columns: str, split: str | None = None) -> Dataset:
        """Returns the rows of a split, by default the one that is named, with their classes numbered."""
        return open_dataset(
            self.dataset_name,
            split or self.split,
            self.dataset_config_name,
            label_column=self.label_column,
            class_columns=class_columns,
            annotations=self.annotated,
        )


@dataclass
class GenerationArguments:
    """How generated images are written.

    Example:
        >>> GenerationArguments(output_dir="out/edits").part_size
        256
    """

    output_dir: str = field(default="out/synthetic", metadata={"help": "Folder that everything is written to."})
    seed: int = field(default=0, metadata={"help": "The seed of each image is drawn from it."})
    batch_size: int = field(default=8, metadata={"help": "Images a call of the pipeline."})
    part_size: int = field(default=256, metadata={"help": "Images a file; what an interruption costs at most."})
    max_attempts: int = field(default=10, metadata={"help": "Seeds tried before a black image is given up."})
    keep_columns: list[str] = field(default_factory=list, metadata={"help": "Columns of the real rows to keep."})
