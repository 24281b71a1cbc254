"""One guided forward pass of a batch: which rows and labels are guided, through which passes, at which step.

[`guided_forward`] is what a training loop calls; `hf_pgg.guidance` has the mathematics.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_pgg.guidance.engines import Guidance, exact_guidance, first_order_guidance, label_count
from hf_pgg.guidance.forms import SUMMED_FORMS, Form, share
from hf_pgg.guidance.modes import RandomState, running_statistics, second_derivatives, uses_batch_statistics

FLOAT16_LOSS_SCALE = 1024.0  # keeps the input gradient's float16 passes off the subnormal numbers


@dataclass(frozen=True)
class GuidanceSettings:
    """How a batch is guided.

    Args:
        form (`Form`): See `hf_pgg.guidance`.
        exact (`bool`): Double backward; otherwise finite differences.
        step (`float`, *optional*): Of the finite difference, relative to the norm of the input; by default that of
            [`default_step`].
        central (`bool`, *optional*): Central differences; by default where the precision needs them.
        centered (`bool`): Guide the logit less the mean logit.
        one_label (`bool`): One label a sample, drawn at random and scaled: an unbiased estimate of the sum over labels.
        fraction (`float`): Part of the guided rows that each batch guides, drawn at random and scaled: m = max(1,
            round(fraction n)) of n rows, times n / m, an unbiased estimate too.
    """

    form: Form = share
    exact: bool = False
    step: float | None = None
    central: bool | None = None
    centered: bool = False
    one_label: bool = False
    fraction: float = 1.0


def input_name(inputs: Collection[str], module: nn.Module) -> str:
    """The input whose gradient is guided: `pixel_values`, or the model's `main_input_name` where it reads no images.

    Args:
        inputs: The names of the model's inputs.
    """
    return "pixel_values" if "pixel_values" in inputs else str(module.main_input_name)


def compute_dtype(module: nn.Module, device: torch.device) -> torch.dtype:
    """The precision of the forward pass: autocast's, or that of the parameters."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def default_step(module: nn.Module, device: torch.device) -> tuple[float, bool]:
    """Relative step, and whether the difference is central, for a module and the precision of its passes.

    The rounding of f is divided by the step, the curvature of f multiplied by it (in a central difference by its
    square): fewer digits need the larger step and the extra pass. Where activations have kinks no step reproduces
    double backward, and a larger one trains better (README, "What was found"). `benchmarks/cost/run.py` measures this.
    """
    dtype = compute_dtype(module, device)
    if dtype in (torch.bfloat16, torch.float16):
        return 3e-3, True
    if dtype == torch.float64:
        return 1e-6, False
    if has_kinks(module):
        return 1e-3, False
    return (1e-3, True) if uses_tensor_float32(device) else (3e-4, False)


_KINKED = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.MaxPool2d)


def has_kinks(module: nn.Module) -> bool:
    """Whether some layer is piecewise linear."""
    return any(isinstance(layer, _KINKED) for layer in module.modules())


def uses_tensor_float32(device: torch.device) -> bool:
    """Whether matrix products or convolutions may round their inputs to 10 bits."""
    return device.type == "cuda" and (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)


def choose_rows(guided: torch.Tensor, fraction: float, generator: torch.Generator | None) -> tuple[torch.Tensor, float]:
    """Indices (m,) of the rows to guide, in order, and the factor n / m that keeps their sum unbiased."""
    rows = torch.nonzero(guided)[:, 0]
    chosen = max(1, round(fraction * len(rows))) if len(rows) else 0
    if chosen == len(rows):
        return rows, 1.0
    drawn = torch.randperm(len(rows), generator=generator)[:chosen].sort().values
    return rows[drawn.to(rows.device)], len(rows) / chosen


def choose_labels(
    labels: torch.Tensor, provenance: torch.Tensor, form: Form, generator: torch.Generator | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One label of each row, drawn evenly: labels (B, 1), provenance (B, 1, ...), factors (B,) that average to L_PG."""
    weights = (labels >= 0).float().cpu()
    weights[weights.sum(1) == 0, 0] = 1.0  # a row without labels keeps its padding
    place = torch.multinomial(weights, 1, generator=generator).to(labels.device)
    rows = torch.arange(len(labels), device=labels.device)
    factor = label_count(labels) if form in SUMMED_FORMS else torch.ones_like(label_count(labels))
    return labels.gather(1, place), provenance[rows, place[:, 0]].unsqueeze(1), factor


def guided_forward(
    model: Callable[..., Any],
    module: nn.Module,
    inputs: Mapping[str, Any],
    labels: torch.Tensor,
    provenance: torch.Tensor,
    guided: torch.Tensor,
    settings: GuidanceSettings,
    *,
    generator: torch.Generator | None = None,
    sharded: bool = False,
    compiled: bool = False,
    backoff: float = 1.0,
) -> tuple[torch.Tensor, Guidance]:
    """Logits (B, classes) of a batch, and its guidance, with as few passes as can be.

    Args:
        model (`Callable`): Called once, as the training loop would (it may be a DDP wrapper); returns `.logits`.
        module (`nn.Module`): The model under its wrapper: further passes go through it.
        inputs (`Mapping`): The model's inputs; `pixel_values` (B, [T,] C, H, W), or another, see [`input_name`].
        labels, provenance, guided: As for [`hf_pgg.guidance.engines.exact_guidance`].
        generator (`torch.Generator`, *optional*): On the CPU; draws rows and labels where `settings` samples them.
        sharded (`bool`): Parameters are spread over processes: every process must make the same passes, so a batch
            without guided rows makes them too, and `labels` must have as many places everywhere.
        compiled (`bool`): The model is compiled and donates its buffers: every input gradient takes a pass of its own.
        backoff (`float`): Multiplies the step (and float16's loss scale) after passes that overflowed.

    Returns:
        The logits, and a [`Guidance`] over all B rows, with the sampling factors in it.
    """
    name = input_name(inputs, module)
    pixels = inputs[name].detach()
    device = pixels.device
    step, central = default_step(module, device)
    step = (settings.step or step) * backoff
    central = central if settings.central is None else settings.central
    loss_scale = FLOAT16_LOSS_SCALE * backoff if compute_dtype(module, device) == torch.float16 else 1.0
    kernels = second_derivatives if settings.exact else nullcontext

    if sharded and settings.fraction == 1:
        rows, factor = torch.arange(len(pixels), device=device), 1.0
    else:
        rows, factor = choose_rows(guided, settings.fraction, generator)
        if sharded and len(rows) == 0:
            rows = torch.zeros(1, dtype=torch.long, device=device)
    if len(rows) == 0:
        logits = model(**inputs).logits
        return logits, _over_the_batch(None, rows, logits)
    everything = len(rows) == len(pixels)
    # batch statistics leak one sample's gradient into another's
    apart = uses_batch_statistics(module) or compiled or (sharded and not everything)

    mine = inputs if everything else _take(inputs, rows, len(pixels))

    def forward(moved: torch.Tensor, call: Callable[..., Any] = module) -> torch.Tensor:
        return call(**{**mine, name: moved}).logits

    random_state = RandomState(device)
    moving = pixels[rows].requires_grad_()
    if apart:
        logits = model(**inputs).logits
        with running_statistics(module), kernels(), random_state.replayed():
            own = forward(moving)
    elif everything:
        with kernels():
            logits = own = forward(moving, model)
    else:
        rest = torch.ones(len(pixels), dtype=torch.bool, device=device).index_fill(0, rows, False).nonzero()[:, 0]
        others = model(**_take(inputs, rest, len(pixels))).logits
        random_state = RandomState(device)
        with kernels():
            own = forward(moving)
        logits = torch.cat([others, own])[torch.cat([rest, rows]).argsort()]

    labels, provenance, guided = labels[rows], provenance[rows], guided[rows]
    scale = torch.full((len(rows),), factor, device=device)
    if settings.one_label:
        labels, provenance, drawn = choose_labels(labels, provenance, settings.form, generator)
        scale = scale * drawn
    given = (own, moving, labels, provenance, guided, settings.form)
    if settings.exact:
        guidance = exact_guidance(*given, centered=settings.centered, loss_scale=loss_scale)
    else:
        if compiled:  # differences of the graph without input gradient: another one may draw other random numbers
            base, central = (logits, central) if everything else (None, True)
        else:
            base = own
        with running_statistics(module):
            guidance = first_order_guidance(
                forward,
                *given,
                random_state=random_state,
                step=step,
                central=central,
                centered=settings.centered,
                loss_scale=loss_scale,
                base=base,
                keep_graph=not (compiled or (apart and central)),
            )
    guidance = Guidance(guidance.loss * scale, guidance.surrogate * scale, guidance.target_share, guidance.measured)
    return logits, guidance if everything else _over_the_batch(guidance, rows, logits)


def _take(inputs: Mapping[str, Any], rows: torch.Tensor, size: int) -> dict[str, Any]:
    """These rows of every input that has one row for each of `size` samples."""
    return {
        name: value[rows] if isinstance(value, torch.Tensor) and value.ndim and len(value) == size else value
        for name, value in inputs.items()
    }


def _over_the_batch(guidance: Guidance | None, rows: torch.Tensor, logits: torch.Tensor) -> Guidance:
    """Of some rows, spread over the batch; zeros elsewhere."""
    zeros = torch.zeros(len(logits), device=logits.device)
    if guidance is None:
        return Guidance(zeros, zeros, zeros, zeros.bool())

    def spread(values: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(logits), device=values.device, dtype=values.dtype).index_copy(0, rows, values)

    return Guidance(*map(spread, (guidance.loss, guidance.surrogate, guidance.target_share, guidance.measured)))
