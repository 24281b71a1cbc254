"""One guided forward pass of a batch: which rows and labels are guided, through which passes, by which engine.

[`guided_forward`] is what a training loop calls.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from hf_pgg.guidance.engines import Guidance, exact_guidance, first_order_guidance, known_targets
from hf_pgg.guidance.forms import Form, share
from hf_pgg.guidance.modes import RandomState, has_kinks, running_statistics, second_derivatives, uses_batch_statistics

_FLOAT16_LOSS_SCALE = 1024.0  # keeps the input gradient's float16 passes off the subnormal numbers


@dataclass(frozen=True)
class GuidanceSettings:
    """How batches are guided.

    Args:
        form ([`~hf_pgg.guidance.forms.Form`]): The loss of one label: a value of `FORMS`, or one of your own; a plain
            function is a TypeError.
        exact (`bool`): Differentiate twice; otherwise finite differences are taken.
        step (`float`, *optional*): Step of the finite difference, relative to the norm of the input; by default that of
            [`default_step`].
        central (`bool`, *optional*): Take central differences; by default where the precision needs them.
        centered (`bool`): Guide the logit less the mean logit.
        one_label (`bool`): Guide one label a sample, drawn at random and scaled: an unbiased estimate over the labels.
        fraction (`float`): Part of the guided rows that each batch guides, drawn at random and scaled: m = max(1,
            round(fraction n)) of n rows, times n / m, an unbiased estimate too.

    Example:
        >>> GuidanceSettings(exact=True, fraction=0.5).form.name
        'share'
    """

    form: Form = share
    exact: bool = False
    step: float | None = None
    central: bool | None = None
    centered: bool = False
    one_label: bool = False
    fraction: float = 1.0

    def __post_init__(self) -> None:
        Form.require(self.form)


@dataclass(frozen=True)
class LoopState:
    """What the training loop says of itself to [`guided_forward`].

    Args:
        generator (`torch.Generator`, *optional*): On the CPU; draws rows and labels where the settings sample them.
        sharded (`bool`): Parameters are spread over processes: every process must make the same passes, so a batch
            without guided rows makes them too, and `labels` must have as many places everywhere.
        compiled (`bool`): The model is compiled and donates its buffers: every input gradient takes a pass of its own.
        backoff (`float`): Multiplies the step (and float16's loss scale) after passes that overflowed.

    Example:
        >>> LoopState(torch.Generator().manual_seed(0), sharded=True).backoff
        1.0
    """

    generator: torch.Generator | None = None
    sharded: bool = False
    compiled: bool = False
    backoff: float = 1.0


def input_name(inputs: Collection[str], module: nn.Module) -> str:
    """Returns which of a model's inputs is guided: `pixel_values`, or its `main_input_name` if it reads no images.

    Example:
        >>> input_name({"pixel_values", "labels"}, torch.nn.Identity())
        'pixel_values'
    """
    return "pixel_values" if "pixel_values" in inputs else str(getattr(module, "main_input_name", "input_ids"))


def read_logits(outputs: Any) -> torch.Tensor:
    """Returns the logits of what a model returned: an output of `transformers`, or a dictionary.

    Example:
        >>> read_logits({"logits": torch.zeros(1, 2)})
        tensor([[0., 0.]])
    """
    return outputs["logits"] if isinstance(outputs, Mapping) else outputs.logits


def _compute_dtype(module: nn.Module, device: torch.device) -> torch.dtype:
    """The precision of a forward pass: autocast's where it is on, otherwise that of the parameters."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def default_step(module: nn.Module, device: torch.device) -> tuple[float, bool]:
    """Returns the relative step of the difference, and whether it is central, for a module and its precision.

    The rounding of f is divided by the step, the curvature of f multiplied by it (in a central difference by its
    square): fewer digits need the larger step and the extra pass. Where activations have kinks no step reproduces
    double backward, and a larger one trains better. `benchmarks/cost/run.py` measures this.

    Example:
        >>> default_step(torch.nn.Linear(2, 2), torch.device("cpu"))
        (0.0003, False)
    """
    dtype = _compute_dtype(module, device)
    if dtype in (torch.bfloat16, torch.float16):
        return 3e-3, True
    if dtype == torch.float64:
        return 1e-6, False
    if has_kinks(module):
        return 1e-3, False
    # TensorFloat-32 rounds the inputs of matrix products and convolutions to 10 bits
    tensor_float = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
    return (1e-3, True) if device.type == "cuda" and tensor_float else (3e-4, False)


def _choose_rows(guided: torch.Tensor, fraction: float, loop: LoopState) -> tuple[torch.Tensor, float]:
    """Indices (m,) of the rows to guide, in order, and the factor n / m that keeps their sum unbiased."""
    if loop.sharded and fraction == 1:  # every process takes all its rows, guided or not, for the passes to be the same
        return torch.arange(len(guided), device=guided.device), 1.0
    rows = torch.nonzero(guided)[:, 0]
    chosen = max(1, round(fraction * len(rows))) if len(rows) else 0
    if chosen < len(rows):
        drawn = torch.randperm(len(rows), generator=loop.generator)[:chosen].sort().values
        return rows[drawn.to(rows.device)], len(rows) / chosen
    if loop.sharded and len(rows) == 0:
        rows = torch.zeros(1, dtype=torch.long, device=guided.device)
    return rows, 1.0


def _choose_labels(
    labels: torch.Tensor, provenance: torch.Tensor, form: Form, generator: torch.Generator | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One label of each row, drawn evenly: labels (B, 1), provenance (B, 1, ...), factors (B,) that average to L_PG."""
    weights = (labels >= 0).float().cpu()
    weights[weights.sum(1) == 0, 0] = 1.0  # a row without labels keeps its padding
    place = torch.multinomial(weights, 1, generator=generator).to(labels.device)
    rows = torch.arange(len(labels), device=labels.device)
    count = (labels >= 0).sum(1).clamp(min=1)
    factor = count if form.over_labels == "sum" else torch.ones_like(count)
    return labels.gather(1, place), provenance[rows, place[:, 0]].unsqueeze(1), factor


def guided_forward(
    model: Callable[..., Any],
    module: nn.Module,
    inputs: Mapping[str, Any],
    labels: torch.Tensor,
    provenance: torch.Tensor,
    guided: torch.Tensor,
    settings: GuidanceSettings,
    loop: LoopState | None = None,
) -> tuple[torch.Tensor, Guidance]:
    """Returns the logits (B, classes) of a batch, and its [`~hf_pgg.guidance.engines.Guidance`] over all B rows.

    It makes as few passes as can be. The factors of what `settings` samples are in the guidance.

    Args:
        model (`Callable`): Called once, as the training loop would (it may be a DDP wrapper); returns `.logits`.
        module (`nn.Module`): The model under its wrapper: further passes go through it.
        inputs (`Mapping`): The model's inputs; `pixel_values` (B, [T,] C, H, W), or another, see [`input_name`].
        labels, provenance, guided: As for [`~hf_pgg.guidance.engines.exact_guidance`].
        loop ([`LoopState`], *optional*): Needed for sampling, sharded parameters and compiled models.

    Example:
        >>> batch = (torch.tensor([[0], [1]]), torch.ones(2, 1, 16, 16), torch.tensor([True, False]))
        >>> inputs = {"pixel_values": torch.ones(2, 3, 16, 16)}
        >>> logits, guidance = guided_forward(model, model, inputs, *batch, GuidanceSettings())
        >>> logits.shape, guidance.loss.tolist()
        (torch.Size([2, 2]), [0.0, 0.0])
    """
    loop = loop or LoopState()
    rows, factor = _choose_rows(guided, settings.fraction, loop)
    if len(rows) == 0:
        logits = read_logits(model(**inputs))
        zeros = torch.zeros(len(logits), device=logits.device)
        return logits, Guidance(zeros, zeros, zeros, zeros.bool())
    passes = _make_passes(model, module, inputs, rows, settings.exact, loop)
    labels, provenance = known_targets(labels[rows], provenance[rows])
    guided = guided[rows]
    scale = torch.full((len(rows),), factor, device=rows.device)
    if settings.one_label:
        labels, provenance, drawn = _choose_labels(labels, provenance, settings.form, loop.generator)
        scale = scale * drawn
    part = _differentiate(passes, module, (labels, provenance, guided), settings, loop)

    def spread(values: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(passes.logits), device=values.device, dtype=values.dtype).index_copy(0, rows, values)

    parts = (part.loss * scale, part.surrogate * scale, part.target_share, part.measured)
    return passes.logits, Guidance(*map(spread, parts))


class _Passes(NamedTuple):
    """The forward passes of a batch.

    logits: (B, classes), of the whole batch.
    own, moving: (m, classes) logits of the rows to guide, and their input, which `own` is differentiable in.
    forward, random_state: Makes `own` from `moving` again, with the numbers that were drawn then.
    apart: `own` has a pass of its own, beside that of `logits`.
    """

    logits: torch.Tensor
    own: torch.Tensor
    moving: torch.Tensor
    forward: Callable[[torch.Tensor], torch.Tensor]
    random_state: RandomState
    apart: bool


def _make_passes(
    model: Callable[..., Any],
    module: nn.Module,
    inputs: Mapping[str, Any],
    rows: torch.Tensor,
    exact: bool,
    loop: LoopState,
) -> _Passes:
    """One pass for all rows, one each for those to guide and the rest, or one for all and one for those to guide."""
    name = input_name(inputs, module)
    pixels = inputs[name].detach()
    everything = len(rows) == len(pixels)
    # batch statistics leak one sample's gradient into another's
    apart = uses_batch_statistics(module) or loop.compiled or (loop.sharded and not everything)
    kernels = second_derivatives if exact else nullcontext
    mine = inputs if everything else _take(inputs, rows, len(pixels))

    def forward(moved: torch.Tensor, call: Callable[..., Any] = module) -> torch.Tensor:
        return read_logits(call(**{**mine, name: moved}))

    random_state = RandomState(pixels.device)
    moving = pixels[rows].requires_grad_()
    if apart:
        logits = read_logits(model(**inputs))
        with running_statistics(module), kernels(), random_state.replayed():
            own = forward(moving)
    elif everything:
        with kernels():
            logits = own = forward(moving, model)
    else:
        rest = torch.ones(len(pixels), dtype=torch.bool, device=rows.device).index_fill(0, rows, False).nonzero()[:, 0]
        others = read_logits(model(**_take(inputs, rest, len(pixels))))
        random_state = RandomState(pixels.device)
        with kernels():
            own = forward(moving)
        logits = torch.cat([others, own])[torch.cat([rest, rows]).argsort()]
    return _Passes(logits, own, moving, forward, random_state, apart)


def _take(inputs: Mapping[str, Any], rows: torch.Tensor, size: int) -> dict[str, Any]:
    """These rows of every input that has one row for each of `size` samples."""
    return {
        name: value[rows] if isinstance(value, torch.Tensor) and value.ndim and len(value) == size else value
        for name, value in inputs.items()
    }


def _differentiate(
    passes: _Passes,
    module: nn.Module,
    targets: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    settings: GuidanceSettings,
    loop: LoopState,
) -> Guidance:
    """The guidance of the rows to guide, by the engine and at the step that the settings and the precision ask for."""
    device = passes.moving.device
    half = _compute_dtype(module, device) == torch.float16
    loss_scale = _FLOAT16_LOSS_SCALE * loop.backoff if half else 1.0
    given = (passes.own, passes.moving, *targets, settings.form)
    if settings.exact:
        return exact_guidance(*given, centered=settings.centered, loss_scale=loss_scale)
    step, central = default_step(module, device)
    if settings.central is not None:
        central = settings.central
    base = passes.own
    if loop.compiled:  # differences of the graph without input gradient: another one may draw other random numbers
        base = passes.logits
        central = central or len(passes.own) < len(passes.logits)
    with running_statistics(module):
        return first_order_guidance(
            passes.forward,
            *given,
            random_state=passes.random_state,
            step=(settings.step or step) * loop.backoff,
            central=central,
            centered=settings.centered,
            loss_scale=loss_scale,
            base=base,
            keep_graph=not (loop.compiled or (passes.apart and central)),
        )
