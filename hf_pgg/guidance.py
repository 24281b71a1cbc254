"""Input gradient guidance: drive the gradient of each label's logit to zero where the input does not come from it.

For a sample x with distinct labels c and target masks I_c, a *form* phi turns the gradient g_c = d f_c / d x into a
penalty, and L_PG(x) aggregates phi(g_c, I_c, x) over c. Forms:

    l2      ||(1 - I) g||^2                  the paper's (PGG, arXiv 2604.02946); has the unit of the model
    share   ||(1 - I) g||^2 / ||g||^2        the share of the gradient's energy outside the target; free of units
    energy  1 - sum_I (g x)^+ / sum (g x)^+  Energy loss of Rao et al., "Studying how to efficiently and effectively
                                             guide models with explanations", ICCV 2023, on input x gradient

Two engines give the parameter gradient of any form. *Exact* differentiates twice. *First-order* uses
d phi / d theta = d / d theta <w, g> with w = d phi / d g held fixed, and takes the directional derivative <w, g> =
||w|| (f(x + h u) - f(x)) / h along u = w / ||w|| from a second forward pass: no second derivative anywhere.

Only torch is needed here: nothing in this file knows of a Trainer, of images or of video.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

Form = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""phi(gradient, inside, pixels) -> (B,): gradient and pixels (B, ...) float32, inside broadcasts to them, in [0, 1]."""

_EPSILON = 1e-12  # of ||g||^2: only keeps 0 / 0 from being NaN, far below any trained model's gradient


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """At least float32: half precisions are widened, float64 is kept."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


# ---------------------------------------------------------------------------------------------- forms


def _sum(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1).sum(1)


def l2(gradient: torch.Tensor, inside: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """||(1 - I) g||^2, summed over the elements: the loss of PGG."""
    return _sum(((1 - inside) * gradient) ** 2)


def l2_mean(gradient: torch.Tensor, inside: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """||(1 - I) g||^2 averaged over the elements (the paper does not say which)."""
    return l2(gradient, inside, pixels) / gradient[0].numel()


def share(gradient: torch.Tensor, inside: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """||(1 - I) g||^2 / ||g||^2, in [0, 1]: 0 if all the gradient's energy lies on the target."""
    return l2(gradient, inside, pixels) / (_sum(gradient**2) + _EPSILON)


def energy(gradient: torch.Tensor, inside: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """1 - share of the positive input x gradient attribution on the target (Rao et al., ICCV 2023), in [0, 1]."""
    attribution = (gradient * pixels).clamp(min=0)
    return _sum((1 - inside) * attribution) / (_sum(attribution) + _EPSILON)


FORMS: dict[str, Form] = {"l2": l2, "l2_mean": l2_mean, "share": share, "energy": energy}
SUMMED_FORMS = (l2, l2_mean)  # the paper sums over a sample's labels; the scale-free forms average, to stay in [0, 1]


# ---------------------------------------------------------------------------------------------- model hygiene


@contextlib.contextmanager
def running_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norm uses its running statistics inside: batch statistics leak one sample's gradient into another's."""
    switched = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    for module in switched:
        module.eval()
    try:
        yield
    finally:
        for module in switched:
            module.train()


def uses_batch_statistics(model: nn.Module) -> bool:
    """Whether some batch norm layer normalises with the statistics of the batch."""
    return any(isinstance(module, _BatchNorm) and module.training for module in model.modules())


def second_derivatives() -> contextlib.AbstractContextManager:
    """Attention kernels with second derivatives: the fused ones have none. Needed around the forward of exact mode."""
    return sdpa_kernel(SDPBackend.MATH)


class RandomState:
    """The random state before a forward pass, so that a second pass draws the same dropout and drop-path masks."""

    def __init__(self, device: torch.device):
        self._cuda = device if device.type == "cuda" else None
        self._cpu_state = torch.get_rng_state()
        self._cuda_state = torch.cuda.get_rng_state(device) if self._cuda else None

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[self._cuda] if self._cuda else []):
            torch.set_rng_state(self._cpu_state)
            if self._cuda is not None and self._cuda_state is not None:
                torch.cuda.set_rng_state(self._cuda_state, self._cuda)
            yield


# ---------------------------------------------------------------------------------------------- engines


@dataclass
class Guidance:
    """What one batch's guidance gives; each (B,), float32 or wider, 0 for rows without guidance.

    loss: L_PG of each sample, detached.
    surrogate: a tensor whose parameter gradient is that of `loss` (its value means nothing in first-order mode).
    target_share: share of the input gradient's energy inside the target, averaged over the sample's labels, detached.
    """

    loss: torch.Tensor
    surrogate: torch.Tensor
    target_share: torch.Tensor


def chosen_logit(logits: torch.Tensor, labels: torch.Tensor, centered: bool = False) -> torch.Tensor:
    """(B,) logit of one label a row (0 where the label is padding), less the mean logit if `centered`."""
    logits = _wide(logits)
    chosen = logits.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    if centered:
        chosen = chosen - logits.mean(1)
    return torch.where(labels >= 0, chosen, 0)


def input_gradient(
    logits: torch.Tensor,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    *,
    centered: bool = False,
    create_graph: bool = False,
) -> torch.Tensor:
    """d f_c / d x of one label a row, at least float32, of the shape of `pixels`. The graph of `logits` is kept.

    Args:
        logits (`torch.Tensor`): (B, classes), computed from `pixels`, row by row (no batch statistics).
        pixels (`torch.Tensor`): (B, ...) with `requires_grad`.
        labels (`torch.Tensor`): (B,) int64; -100 gives a zero gradient.
    """
    total = chosen_logit(logits, labels, centered).sum()
    return _wide(torch.autograd.grad(total, pixels, create_graph=create_graph, retain_graph=True)[0])


def _zeros(pixels: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(pixels), device=pixels.device, dtype=_wide(pixels[:0]).dtype)


def _check(pixels: torch.Tensor, labels: torch.Tensor, provenance: torch.Tensor, guided: torch.Tensor) -> None:
    expected = (*labels.shape, *(pixels.shape[1:2] if pixels.ndim == 5 else ()), *pixels.shape[-2:])
    if tuple(provenance.shape) != expected:
        raise ValueError(f"provenance has shape {tuple(provenance.shape)}, expected {expected}: (B, K, [T,] H, W)")
    if guided.shape != labels.shape[:1]:
        raise ValueError(f"guided has shape {tuple(guided.shape)}, expected {tuple(labels.shape[:1])}")
    if labels.shape[1] > 1:
        ordered = labels.sort(1).values
        if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
            raise ValueError("a sample's labels repeat: merge its sources first, with `provenance.merge_sources`")


def _per_label(
    labels: torch.Tensor, provenance: torch.Tensor, guided: torch.Tensor, form: Form
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """For each of K places: labels (B,), -100 where nothing is guided; masks (B, [T,] 1, H, W); scale (B,)."""
    count = (labels >= 0).sum(1).clamp(min=1)
    scale = torch.ones(len(count), device=count.device) if form in SUMMED_FORMS else 1 / count
    for k in range(labels.shape[1]):
        chosen = labels[:, k].masked_fill(~guided, -100)
        if (chosen >= 0).any():
            yield chosen, _wide(provenance[:, k]).unsqueeze(-3), scale * (chosen >= 0)


def exact_guidance(
    logits: torch.Tensor,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    provenance: torch.Tensor,
    guided: torch.Tensor,
    form: Form = share,
    *,
    centered: bool = False,
) -> Guidance:
    """L_PG by double backward. The forward that made `logits` must run under `second_derivatives()`.

    Args:
        logits (`torch.Tensor`): (B, classes), from `pixels`, without batch statistics.
        pixels (`torch.Tensor`): (B, [T,] C, H, W) with `requires_grad`.
        labels (`torch.Tensor`): (B, K) int64, distinct in a row, padded with -100.
        provenance (`torch.Tensor`): (B, K, [T,] H, W) in [0, 1].
        guided (`torch.Tensor`): (B,) bool, False for rows without provenance.
        form (`Form`): See the module's head.
        centered (`bool`): Guide the logit less the mean of all logits.

    Raises:
        ValueError: If shapes disagree or a row's labels repeat.
    """
    _check(pixels, labels, provenance, guided)
    loss = _zeros(pixels)
    inside_share = torch.zeros_like(loss)
    counted = torch.zeros_like(loss)
    with torch.autocast(pixels.device.type, enabled=False):
        for chosen, inside, scale in _per_label(labels, provenance, guided, form):
            gradient = input_gradient(logits, pixels, chosen, centered=centered, create_graph=True)
            phi = form(gradient, inside, _wide(pixels.detach()))
            # `where`, not a product: a row without guidance must not bring in its own inf or NaN
            loss = loss + scale * torch.where(scale > 0, phi, 0)
            inside_share += (scale > 0) * (1 - share(gradient.detach(), inside, pixels))
            counted += scale > 0
    return Guidance(loss.detach(), loss, inside_share / counted.clamp(min=1))


def first_order_guidance(
    forward: Callable[[torch.Tensor], torch.Tensor],
    logits: torch.Tensor,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    provenance: torch.Tensor,
    guided: torch.Tensor,
    form: Form = share,
    *,
    random_state: RandomState,
    step: float = 1e-3,
    centered: bool = False,
) -> Guidance:
    """L_PG whose parameter gradient comes from a finite difference: ordinary passes only.

    Args:
        forward (`Callable`): pixels -> logits, the pass that made `logits`.
        random_state (`RandomState`): Taken before that pass; the second pass replays it.
        step (`float`): h relative to max(||x||, sqrt(number of elements)) of each sample.

    The other arguments are those of [`exact_guidance`]; fused attention is fine here.
    """
    _check(pixels, labels, provenance, guided)
    loss = _zeros(pixels)
    surrogate, inside_share, counted = loss, torch.zeros_like(loss), torch.zeros_like(loss)
    still = pixels.detach()
    expand = (-1,) + (1,) * (pixels.ndim - 1)
    norm = _wide(still).flatten(1).norm(dim=1).clamp(min=still[0].numel() ** 0.5)
    with torch.autocast(pixels.device.type, enabled=False):
        plan = []
        for chosen, inside, scale in _per_label(labels, provenance, guided, form):
            gradient = input_gradient(logits, pixels, chosen, centered=centered).requires_grad_()
            phi = form(gradient, inside, _wide(still))
            direction = torch.autograd.grad(phi.sum(), gradient)[0]
            loss = loss + scale * torch.where(scale > 0, phi.detach(), 0)
            inside_share += (scale > 0) * (1 - share(gradient.detach(), inside, still))
            counted += scale > 0
            plan.append((chosen, scale, direction))
    for chosen, scale, direction in plan:
        length = direction.flatten(1).norm(dim=1)
        unit = direction / length.clamp(min=torch.finfo(torch.float32).tiny).view(expand)
        h = step * norm
        with random_state.replayed():
            moved = forward((_wide(still) + h.view(expand) * unit).to(pixels.dtype))
        rise = chosen_logit(moved, chosen, centered) - chosen_logit(logits, chosen, centered)
        surrogate = surrogate + scale * (length / h) * rise
    return Guidance(loss, surrogate, inside_share / counted.clamp(min=1))


# ---------------------------------------------------------------------------------------------- exchange


def exchange_backgrounds(
    pixels: torch.Tensor, provenance: torch.Tensor, guided: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Each guided row's targets on the background of another guided row, whose own targets are filled with its mean.

    Args:
        pixels (`torch.Tensor`): (B, [T,] C, H, W). provenance (`torch.Tensor`): (B, K, [T,] H, W) in [0, 1].
        guided (`torch.Tensor`): (B,) bool; other rows stay as they are, and so does a guided row without a partner.
        generator (`torch.Generator`): On the CPU; draws the partners.
    """
    rows = torch.nonzero(guided)[:, 0]
    if len(rows) < 2:
        return pixels
    shift = int(torch.randint(1, len(rows), (1,), generator=generator))
    inside = _wide(provenance[rows]).sum(1).clamp(max=1).unsqueeze(-3)
    own = _wide(pixels[rows])
    outside = 1 - inside
    space = tuple(range(own.ndim - 2, own.ndim))
    mean = (own * outside).sum(space, keepdim=True) / outside.sum(space, keepdim=True).clamp(min=1)
    background = (outside * own + inside * mean).roll(shift, 0)
    return pixels.index_copy(0, rows, (inside * own + outside * background).to(pixels.dtype))


def exchange_guidance(
    forward: Callable[[torch.Tensor], torch.Tensor],
    logits: torch.Tensor,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    provenance: torch.Tensor,
    guided: torch.Tensor,
    *,
    random_state: RandomState,
    generator: torch.Generator,
    centered: bool = True,
) -> Guidance:
    """The form "exchange": mean over labels of (f_c(x') - f_c(x))^2, x' being x with everything outside exchanged.

    The finite-step sibling of the gradient forms: f(x') - f(x) is the integral of the input gradient along the way
    from x to x', which changes only what lies outside the target, in directions that occur in the data. Its unit is
    that of the logits, which the classification loss fixes, and it needs no input gradient: one more forward pass.

    Args:
        generator (`torch.Generator`): Draws the partners, see [`exchange_backgrounds`].

    The other arguments are those of [`first_order_guidance`]; `target_share` is not measured (zeros).
    """
    _check(pixels, labels, provenance, guided)
    moved = exchange_backgrounds(pixels.detach(), provenance, guided, generator)
    with random_state.replayed():
        other = forward(moved)
    loss = _zeros(pixels)
    count = (labels >= 0).sum(1).clamp(min=1)
    for k in range(labels.shape[1]):
        chosen = labels[:, k].masked_fill(~guided, -100)
        change = chosen_logit(other, chosen, centered) - chosen_logit(logits, chosen, centered)
        loss = loss + change**2 / count
    return Guidance(loss.detach(), loss, torch.zeros_like(loss))
