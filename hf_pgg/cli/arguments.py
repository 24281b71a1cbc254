"""Options that several recipes share; [`hf_pgg.cli.options.parse_options`] reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers.trainer_utils import SaveStrategy, SchedulerType

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

    output_dir: str | None = field(default="out", metadata={"help": "Folder that everything is written to."})
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
        default="no",
        metadata={"help": "When to save checkpoints.", "choices": [kind.value for kind in SaveStrategy]},
    )
    report_to: list[str] | None = field(default_factory=lambda: ["none"], metadata={"help": "Trackers to log to."})
