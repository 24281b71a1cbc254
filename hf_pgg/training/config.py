"""`PGGConfig`: the training arguments of [`PGGTrainer`]."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from transformers import TrainingArguments

from hf_pgg.guidance.forms import FORMS

CHOICES = {
    "guidance_form": tuple(FORMS),
    "guidance_mode": ("auto", "exact", "finite_difference"),
    "guidance_labels": ("all", "one"),
    "guidance_difference": ("auto", "one-sided", "central"),
    "guidance_logit": ("label", "centered"),
}


@dataclass
class PGGConfig(TrainingArguments):
    r"""
    Training arguments with input gradient guidance; all of `transformers.TrainingArguments`, and:

    Args:
        alpha (`float`, *optional*, defaults to `10.0`): Weight of the guidance loss; 0 trains plainly. The default is
            that of `share`, chosen on validation (README, "Regimes"); other forms have other scales.
        guidance_form (`str`, *optional*, defaults to `"share"`): `"share"`, `"energy"`, `"l2"` or `"l2_mean"`.
        guidance_mode (`str`, *optional*, defaults to `"auto"`): `"exact"` (double backward), `"finite_difference"`
            (first-order: ordinary passes only), or `"auto"`, see [`hf_pgg.training.validation.resolve_mode`].
        guidance_fraction (`float`, *optional*, defaults to `1.0`): Part of the rows with provenance that each batch
            guides, drawn at random and scaled: an unbiased saving.
        guidance_labels (`str`, *optional*, defaults to `"all"`): `"all"`, or `"one"` label a sample, drawn at random
            and scaled: an unbiased saving where samples have several.
        guidance_step (`float`, *optional*): Step of the finite difference, relative to the norm of the input; by
            default chosen by the precision of the passes ([`hf_pgg.guidance.forward.default_step`]).
        guidance_difference (`str`, *optional*, defaults to `"auto"`): `"one-sided"`, `"central"` (one more pass), or
            `"auto"`: central where the precision needs it.
        guidance_logit (`str`, *optional*, defaults to `"label"`): `"label"` or `"centered"` (less the mean logit).
        alpha_warmup_ratio (`float`, *optional*, defaults to `0.0`): Share of the steps over which alpha grows linearly.
        freeze_batch_norm (`bool`, *optional*, defaults to `False`): Train with batch norm's running statistics, which
            saves the separate guidance pass that batch statistics need.
        image_column, label_column (`str`): Names in the datasets; the label column serves rows without `labels`.
        video_column (`str`, *optional*): Column of the clips, where the samples are clips.
        num_frames (`int`, *optional*): Frames taken evenly from each clip; by default all of them.
        group_columns (`list[str]`, *optional*): Integer columns handed to `compute_metrics` as `.groups`.
        image_size (`int`, *optional*): Input size in pixels, other than the image processor's.
        allow_overlap (`bool`, *optional*, defaults to `False`): Accept masks that sum over 1 (dilated or random ones).
        validate_rows (`int`, *optional*, defaults to `10000`): Rows of each dataset checked before the first step,
            evenly spaced when there are more; 0 checks none.
        eval_target_share (`bool`, *optional*, defaults to `True`): Measure the target gradient share in evaluation,
            on rows with provenance; costs a backward pass.
        max_nonfinite_steps (`int`, *optional*, defaults to `10`): Guidance losses in a row that may be NaN or infinite
            (each is skipped and counted) before training stops.
    """

    alpha: float = field(default=10.0, metadata={"help": "Weight of the guidance loss; 0 trains plainly."})
    guidance_form: str = field(default="share", metadata={"help": f"Form of the loss: {', '.join(FORMS)}."})
    guidance_mode: str = field(
        default="auto",
        metadata={"help": "exact (double backward), finite_difference (ordinary passes only) or auto."},
    )
    guidance_fraction: float = field(
        default=1.0, metadata={"help": "Part of the rows with provenance that each batch guides, drawn and scaled."}
    )
    guidance_labels: str = field(
        default="all", metadata={"help": "all, or one label a sample, drawn at random and scaled."}
    )
    guidance_step: float | None = field(
        default=None,
        metadata={"help": "Step of the finite difference, relative to the norm of the input; default by precision."},
    )
    guidance_difference: str = field(
        default="auto", metadata={"help": "one-sided, central, or auto: central where the precision needs it."}
    )
    guidance_logit: str = field(default="label", metadata={"help": "label, or centered (less the mean logit)."})
    alpha_warmup_ratio: float = field(
        default=0.0, metadata={"help": "Share of the steps over which alpha grows linearly from 0."}
    )
    freeze_batch_norm: bool = field(default=False, metadata={"help": "Train with batch norm's running statistics."})
    image_column: str = field(default="image", metadata={"help": "Column of the images."})
    label_column: str = field(default="label", metadata={"help": "Column of the labels of rows without `labels`."})
    video_column: str | None = field(default=None, metadata={"help": "Column of the clips, for video."})
    num_frames: int | None = field(default=None, metadata={"help": "Frames taken evenly from each clip; default: all."})
    group_columns: list[str] | None = field(
        default=None, metadata={"help": "Integer columns handed to compute_metrics as `.groups`."}
    )
    image_size: int | None = field(default=None, metadata={"help": "Input size in pixels, other than the processor's."})
    allow_overlap: bool = field(default=False, metadata={"help": "Accept masks that sum over 1: dilated, random."})
    validate_rows: int = field(
        default=10_000, metadata={"help": "Rows of each dataset checked before the first step; 0 checks none."}
    )
    eval_target_share: bool = field(default=True, metadata={"help": "Measure the target gradient share in evaluation."})
    max_nonfinite_steps: int = field(
        default=10, metadata={"help": "Non-finite guidance losses in a row before training stops."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
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
            raise ValueError(f"num_frames is {self.num_frames}: it takes at least 1, and clips in `video_column`")
        if not 0 <= self.alpha_warmup_ratio <= 1:
            raise ValueError(f"alpha_warmup_ratio is {self.alpha_warmup_ratio}: it must be in [0, 1]")
