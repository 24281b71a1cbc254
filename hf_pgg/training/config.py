"""`PGGConfig`: the training arguments of `PGGTrainer`, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from packaging.version import Version
from transformers import TrainingArguments

from hf_pgg.data.collator import PGGCollator
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.guidance.forms import FORMS
from hf_pgg.guidance.forward import GuidanceSettings

CHOICES = {
    "guidance_form": tuple(FORMS),
    "guidance_mode": ("auto", "exact", "finite_difference"),
    "guidance_labels": ("all", "one"),
    "guidance_difference": ("auto", "one-sided", "central"),
    "guidance_logit": ("label", "centered"),
}


# below these, training is silently wrong: the loss is divided twice; a run is not resumed exactly
LOWEST = {"transformers": "5.20", "accelerate": "1.8"}


def refuse_releases(installed: Mapping[str, str]) -> None:
    """Refuses releases (name to version) with which training is known to be silently wrong.

    Example:
        >>> refuse_releases({"transformers": "5.11.0", "accelerate": "1.8.0"})
        Traceback (most recent call last):
        ImportError: transformers 5.11.0 trains silently wrong with hf_pgg: pip install 'transformers>=5.20'
    """
    for name, lowest in LOWEST.items():
        if Version(installed[name]) < Version(lowest):
            remedy = f"pip install '{name}>={lowest}'"
            raise ImportError(f"{name} {installed[name]} trains silently wrong with hf_pgg: {remedy}")


refuse_releases({name: version(name) for name in LOWEST})


def _option(default: Any, text: str) -> Any:
    """A field whose help text a recipe's parser shows."""
    return field(default=default, metadata={"help": text})


@dataclass
class PGGConfig(TrainingArguments):
    r"""
    Training arguments with input gradient guidance: all of `transformers.TrainingArguments`, and:

    Args:
        alpha (`float`): Weight of the guidance loss; 0 trains plainly. The default
            was chosen on validation data for `share`; other forms have other scales.
        guidance_form (`str`): A name in `hf_pgg.guidance.forms.FORMS`.
        guidance_mode (`str`): `"exact"` (differentiates twice),
            `"finite_difference"` (first-order: ordinary passes only), or `"auto"`, see
            [`~hf_pgg.training.validation.is_exact`].
        guidance_fraction (`float`): Part of the rows with provenance that each batch
            guides, drawn at random and scaled: an unbiased saving.
        guidance_labels (`str`): `"all"`, or `"one"` label a sample, drawn at random
            and scaled: an unbiased saving where samples have several.
        guidance_step (`float`, *optional*): Step of the finite difference, relative to the norm of the input; by
            default [`~hf_pgg.guidance.forward.default_step`].
        guidance_difference (`str`): `"one-sided"`, `"central"` (one more pass), or
            `"auto"`: central where the precision needs it.
        guidance_logit (`str`): `"label"` or `"centered"` (less the mean logit).
        alpha_warmup_ratio (`float`): Share of the steps over which alpha grows linearly.
        freeze_batch_norm (`bool`): Train with batch norm's running statistics, which
            saves the separate guidance pass that batch statistics need.
        label_column (`str`): Column of the labels of rows without `labels`.
        video_column (`str`, *optional*): Column of the clips, where the samples are clips.
        num_frames (`int`, *optional*): Frames taken evenly from each clip; by default all of them.
        group_columns (`list[str]`, *optional*): Integer columns handed to `compute_metrics` as `.groups`.
        image_size (`int`, *optional*): Input size in pixels, other than the image processor's.
        allow_overlap (`bool`): Accept masks that sum over 1 (dilated or random ones).
        validate_rows (`int`): Rows of each dataset checked before the first step,
            evenly spaced when there are more; 0 checks none.
        eval_target_share (`bool`): Measure the target gradient share in evaluation,
            on rows with provenance; costs a backward pass.
        license (`str`, *optional*): Licence of the trained model, which its card states: an identifier of the Hub such
            as `"apache-2.0"`.
        max_nonfinite_steps (`int`): Guidance losses in a row that may be NaN or infinite
            (each is skipped and counted) before training stops.

    Raises:
        ValueError: If a value is out of its range, or two settings contradict each other.

    Example:
        >>> PGGConfig("out", guidance_form="energy", alpha=1.0, use_cpu=True).guidance_settings(exact=False).form.name
        'energy'
    """

    alpha: float = _option(10.0, "Weight of the guidance loss; 0 trains plainly.")
    guidance_form: str = _option("share", f"Form of the loss: {', '.join(FORMS)}.")
    guidance_mode: str = _option(
        "auto", "exact (differentiates twice), finite_difference (ordinary passes only) or auto."
    )
    guidance_fraction: float = _option(
        1.0, "Part of the rows with provenance that each batch guides, drawn at random and scaled."
    )
    guidance_labels: str = _option("all", "all, or one label a sample, drawn at random and scaled.")
    guidance_step: float | None = _option(
        None, "Step of the finite difference, relative to the norm of the input; by default, by precision."
    )
    guidance_difference: str = _option("auto", "one-sided, central, or auto: central where the precision needs it.")
    guidance_logit: str = _option("label", "label, or centered (less the mean logit).")
    alpha_warmup_ratio: float = _option(0.0, "Share of the steps over which alpha grows linearly from 0.")
    freeze_batch_norm: bool = _option(False, "Train with batch norm's running statistics.")
    image_column: str = _option("image", "Column of the images.")
    label_column: str = _option("label", "Column of the labels of rows without `labels`.")
    video_column: str | None = _option(None, "Column of the clips, for video.")
    num_frames: int | None = _option(None, "Frames taken evenly from each clip; by default all.")
    group_columns: list[str] | None = field(
        default=None, metadata={"help": "Integer columns handed to compute_metrics as `.groups`."}
    )
    image_size: int | None = _option(None, "Input size in pixels, other than the image processor's.")
    allow_overlap: bool = _option(False, "Accept masks that sum over 1: dilated or random ones.")
    validate_rows: int = _option(10_000, "Rows of each dataset checked before the first step; 0 checks none.")
    eval_target_share: bool = _option(True, "Measure the target gradient share in evaluation.")
    license: str | None = _option(None, "Licence that the model's card states, such as apache-2.0.")
    max_nonfinite_steps: int = _option(10, "Non-finite guidance losses in a row before training stops.")

    def __post_init__(self) -> None:
        new = "activation_checkpointing_kwargs"  # the name that the user gave: they are the same afterwards
        self.checkpointing_argument = new if getattr(self, new, None) is not None else "gradient_checkpointing_kwargs"
        super().__post_init__()
        self.check_guidance()

    def check_guidance(self) -> None:
        """Checks the values of this class; the trainer does so again when they change (`ValueError`)."""
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise ValueError(f"alpha is {self.alpha}: it must be a finite number >= 0 (0 trains without guidance)")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} is '{value}': choose one of {', '.join(choices)}")
        if not 0 < self.guidance_fraction <= 1:
            raise ValueError(f"guidance_fraction is {self.guidance_fraction}: it must be in (0, 1]")
        if self.guidance_step is not None and not 0 < self.guidance_step < 1:
            raise ValueError(f"guidance_step is {self.guidance_step}: it must be in (0, 1), relative to the input")
        if self.guidance_mode == "exact" and (self.guidance_step or self.guidance_difference != "auto"):
            raise ValueError(
                "guidance_step and guidance_difference belong to guidance_mode='finite_difference': exact guidance"
                " takes no step, remove them"
            )
        if self.num_frames is not None and (self.num_frames < 1 or self.video_column is None):
            raise ValueError(
                f"num_frames is {self.num_frames} and video_column {self.video_column}: give at least 1 frame, and the"
                " column of the clips"
            )
        if not 0 <= self.alpha_warmup_ratio <= 1:
            raise ValueError(f"alpha_warmup_ratio is {self.alpha_warmup_ratio}: it must be in [0, 1]")

    @property
    def guidance_values(self) -> tuple[Any, ...]:
        """The values that decide how batches are guided: where they change, the trainer follows."""
        names = ("form", "mode", "fraction", "labels", "step", "difference", "logit")
        return (self.alpha, *(getattr(self, f"guidance_{name}") for name in names))

    def guidance_settings(self, exact: bool) -> GuidanceSettings:
        """Returns what [`~hf_pgg.guidance.forward.guided_forward`] is told of these arguments."""
        return GuidanceSettings(
            form=FORMS[self.guidance_form],
            exact=exact,
            step=self.guidance_step,
            central={"one-sided": False, "central": True, "auto": None}[self.guidance_difference],
            centered=self.guidance_logit == "centered",
            one_label=self.guidance_labels == "one",
            fraction=self.guidance_fraction,
        )

    def collator(self, image_processor: Any, augment: Any = None) -> PGGCollator:
        """Returns the collator for the columns, size and frames that these arguments name.

        Raises:
            ValueError: If there is no image processor.
        """
        if image_processor is None:
            raise ValueError("give `processing_class` (the model's image processor) or `data_collator`")
        return PGGCollator(
            image_processor,
            image_size=self.image_size,
            augment=augment,
            image_column=self.image_column,
            label_column=self.label_column,
            extra_columns=self.group_columns or [],
            video_column=self.video_column,
            sampler=FrameSampler(self.num_frames) if self.num_frames else None,
        )
