"""`PGGConfig`: the training arguments of [`PGGTrainer`]."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from transformers import TrainingArguments

from hf_pgg.guidance import FORMS

EXCHANGE = "exchange"


@dataclass
class PGGConfig(TrainingArguments):
    r"""
    Training arguments with input gradient guidance; all of `transformers.TrainingArguments`, and:

    Args:
        alpha (`float`, *optional*, defaults to `10.0`): Weight of the guidance loss; 0 trains plainly. The default is
            that of `share`, chosen on validation (README, "Regimes"); other forms have other scales.
        guidance_form (`str`, *optional*, defaults to `"share"`): `"share"`, `"energy"`, `"l2"` or `"l2_mean"`.
        guidance_mode (`str`, *optional*, defaults to `"finite_difference"`): `"exact"` (double backward) or
            `"finite_difference"` (first-order: ordinary passes only).
        guidance_step (`float`, *optional*, defaults to `1e-3`): Step of the finite difference, relative to the norm of
            the input.
        guidance_logit (`str`, *optional*, defaults to `"label"`): `"label"` or `"centered"` (less the mean logit).
        alpha_warmup_ratio (`float`, *optional*, defaults to `0.0`): Share of the steps over which alpha grows linearly.
        freeze_batch_norm (`bool`, *optional*, defaults to `False`): Train with batch norm's running statistics, which
            saves the separate guidance pass that batch statistics need.
        image_column, label_column (`str`): Names in the datasets; the label column serves rows without `labels`.
        group_columns (`list[str]`, *optional*): Integer columns handed to `compute_metrics` as `.groups`.
        image_size (`int`, *optional*): Input size in pixels, other than the image processor's.
        allow_overlap (`bool`, *optional*, defaults to `False`): Accept masks that sum over 1 (dilated ones).
        validate_rows (`int`, *optional*, defaults to `10000`): Rows of each dataset checked before the first step,
            evenly spaced when there are more; 0 checks none.
        eval_target_share (`bool`, *optional*, defaults to `True`): Measure the target gradient share in evaluation,
            on rows with provenance; costs a backward pass.
        max_nonfinite_steps (`int`, *optional*, defaults to `10`): Guidance losses in a row that may be NaN or infinite
            (each is skipped and counted) before training stops.
    """

    alpha: float = field(default=10.0, metadata={"help": "Weight of the guidance loss; 0 trains plainly."})
    guidance_form: str = field(
        default="share", metadata={"help": f"Form of the loss: {', '.join((*FORMS, EXCHANGE))}."}
    )
    guidance_mode: str = field(
        default="finite_difference",
        metadata={"help": "exact (double backward) or finite_difference (ordinary passes only)."},
    )
    guidance_step: float = field(
        default=1e-3, metadata={"help": "Step of the finite difference, relative to the norm of the input."}
    )
    guidance_logit: str = field(default="label", metadata={"help": "label, or centered (less the mean logit)."})
    alpha_warmup_ratio: float = field(
        default=0.0, metadata={"help": "Share of the steps over which alpha grows linearly from 0."}
    )
    freeze_batch_norm: bool = field(default=False, metadata={"help": "Train with batch norm's running statistics."})
    image_column: str = field(default="image", metadata={"help": "Column of the pictures."})
    label_column: str = field(default="label", metadata={"help": "Column of the labels of rows without `labels`."})
    group_columns: list[str] | None = field(
        default=None, metadata={"help": "Integer columns handed to compute_metrics as `.groups`."}
    )
    image_size: int | None = field(default=None, metadata={"help": "Input size in pixels, other than the processor's."})
    allow_overlap: bool = field(default=False, metadata={"help": "Accept masks that sum over 1 (dilated ones)."})
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
        if self.guidance_form not in (*FORMS, EXCHANGE):
            raise ValueError(f"guidance_form is '{self.guidance_form}': choose one of {', '.join((*FORMS, EXCHANGE))}")
        if self.guidance_mode not in ("exact", "finite_difference"):
            raise ValueError(f"guidance_mode is '{self.guidance_mode}': choose 'exact' or 'finite_difference'")
        if self.guidance_logit not in ("label", "centered"):
            raise ValueError(f"guidance_logit is '{self.guidance_logit}': choose 'label' or 'centered'")
        if not self.guidance_step > 0:
            raise ValueError(f"guidance_step is {self.guidance_step}: it must be > 0")
        if not 0 <= self.alpha_warmup_ratio <= 1:
            raise ValueError(f"alpha_warmup_ratio is {self.alpha_warmup_ratio}: it must be in [0, 1]")
