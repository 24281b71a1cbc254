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

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from hf_pgg.guidance.forms import SUMMED_FORMS, Form, share
from hf_pgg.guidance.modes import RandomState


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """At least float32: half precisions are widened, float64 is kept."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


# ---------------------------------------------------------------------------------------------- engines


@dataclass
class Guidance:
    """What one batch's guidance gives; each (B,), float32 or wider, 0 for rows without guidance.

    loss: L_PG of each sample, detached.
    surrogate: a tensor whose parameter gradient is that of `loss` (its value means nothing in first-order mode).
    target_share: share of the input gradient's energy inside the target, averaged over the sample's labels, detached.
    measured: bool, the rows that were guided.
    """

    loss: torch.Tensor
    surrogate: torch.Tensor
    target_share: torch.Tensor
    measured: torch.Tensor

    @property
    def value(self) -> torch.Tensor:
        """The loss, with the surrogate's gradient."""
        return self.surrogate + (self.loss - self.surrogate).detach()


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
    retain_graph: bool = True,
    loss_scale: float = 1.0,
) -> torch.Tensor:
    """d f_c / d x of one label a row, at least float32, of the shape of `pixels`.

    Args:
        logits (`torch.Tensor`): (B, classes), computed from `pixels`, row by row (no batch statistics).
        pixels (`torch.Tensor`): (B, ...) with `requires_grad`.
        labels (`torch.Tensor`): (B,) int64; -100 gives a zero gradient.
        loss_scale (`float`): Multiplies the logit before and divides the gradient after the backward pass, so that
            float16 activations' gradients do not underflow; the trainer's own loss scaler does not see this pass.
    """
    total = chosen_logit(logits, labels, centered).sum() * loss_scale
    gradient = torch.autograd.grad(total, pixels, create_graph=create_graph, retain_graph=retain_graph)[0]
    return _wide(gradient) / loss_scale


def over_channels(mask: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """A mask as it broadcasts to the input: one of the input's shape, or (B, [T,] H, W) for all of its channels."""
    return mask if mask.ndim == pixels.ndim else mask.unsqueeze(-3)


def _check(pixels: torch.Tensor, labels: torch.Tensor, provenance: torch.Tensor, guided: torch.Tensor) -> None:
    expected = (*labels.shape, *pixels.shape[1:-3], *pixels.shape[-2:])
    whole = (*labels.shape, *pixels.shape[1:])
    if tuple(provenance.shape) not in (expected, whole):
        raise ValueError(
            f"provenance has shape {tuple(provenance.shape)}, expected {expected}: (B, K, [T,] H, W), or {whole} with a"
            " value for every element of the input"
        )
    if guided.shape != labels.shape[:1]:
        raise ValueError(f"guided has shape {tuple(guided.shape)}, expected {tuple(labels.shape[:1])}")
    if labels.shape[1] > 1:
        ordered = labels.sort(1).values
        if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
            raise ValueError("a sample's labels repeat: merge its sources first, with `provenance.merge_sources`")


class _Sums:
    """Adds up the parts of a [`Guidance`] over the places k = 1..K of the labels."""

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor, guided: torch.Tensor, form: Form):
        self.pixels, self.labels, self.guided, self.form = pixels, labels, guided, form
        # the paper sums over a sample's labels; the scale-free forms average
        self.each = torch.ones_like(guided, dtype=torch.float32) if form in SUMMED_FORMS else 1 / label_count(labels)
        self.loss = torch.zeros(len(pixels), device=pixels.device, dtype=_wide(pixels[:0]).dtype)
        self.surrogate, self.share = self.loss, torch.zeros_like(self.loss)
        self.counted = torch.zeros_like(self.loss)

    def places(self, provenance: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """For each place: labels (B,), -100 where nothing is guided; masks as broad as the input; scale (B,)."""
        for k in range(self.labels.shape[1]):
            chosen = self.labels[:, k].masked_fill(~self.guided, -100)
            yield chosen, over_channels(_wide(provenance[:, k]), self.pixels), self.each * (chosen >= 0)

    def add_loss(
        self, phi: torch.Tensor, scale: torch.Tensor, gradient: torch.Tensor, inside: torch.Tensor, pixels: torch.Tensor
    ) -> None:
        # `where`, not a product: a row without guidance must not bring in its own inf or NaN
        self.loss = self.loss + scale * torch.where(scale > 0, phi, 0)
        self.share += torch.where(scale > 0, 1 - share(gradient.detach(), inside, pixels), 0)
        self.counted += scale > 0

    def result(self, surrogate: torch.Tensor) -> Guidance:
        return Guidance(self.loss.detach(), surrogate, self.share / self.counted.clamp(min=1), self.counted > 0)


def label_count(labels: torch.Tensor) -> torch.Tensor:
    """(B,) number of a row's labels, at least 1."""
    return (labels >= 0).sum(1).clamp(min=1)


def exact_guidance(
    logits: torch.Tensor,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    provenance: torch.Tensor,
    guided: torch.Tensor,
    form: Form = share,
    *,
    centered: bool = False,
    loss_scale: float = 1.0,
) -> Guidance:
    """L_PG by double backward. The forward that made `logits` must run under `second_derivatives()`.

    Args:
        logits (`torch.Tensor`): (B, classes), from `pixels`, without batch statistics.
        pixels (`torch.Tensor`): (B, [T,] C, H, W), or an input of any other shape, with `requires_grad`.
        labels (`torch.Tensor`): (B, K) int64, distinct in a row, padded with -100.
        provenance (`torch.Tensor`): (B, K, [T,] H, W) in [0, 1] for all channels, or (B, K, ...) of the input's shape.
        guided (`torch.Tensor`): (B,) bool, False for rows without provenance.
        form (`Form`): See the module's head.
        centered (`bool`): Guide the logit less the mean of all logits.
        loss_scale (`float`): For float16, see [`input_gradient`].

    Raises:
        ValueError: If shapes disagree or a row's labels repeat.
    """
    _check(pixels, labels, provenance, guided)
    sums, still = _Sums(pixels, labels, guided, form), _wide(pixels.detach())
    with torch.autocast(pixels.device.type, enabled=False):
        for chosen, inside, scale in sums.places(provenance):
            gradient = input_gradient(
                logits, pixels, chosen, centered=centered, create_graph=True, loss_scale=loss_scale
            )
            sums.add_loss(form(gradient, inside, still), scale, gradient, inside, still)
    return sums.result(sums.loss)


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
    central: bool = False,
    centered: bool = False,
    loss_scale: float = 1.0,
    base: torch.Tensor | None = None,
    keep_graph: bool = True,
) -> Guidance:
    """L_PG whose parameter gradient comes from a finite difference: ordinary passes only.

    Args:
        forward (`Callable`): pixels -> logits, the pass that made `logits`.
        random_state (`RandomState`): Taken before that pass; the others replay it.
        step (`float`): h relative to max(||x||, sqrt(number of elements)) of each sample.
        central (`bool`): (f(x + h u) - f(x - h u)) / 2h, one more forward pass: its error falls with h^2, so that h
            can be large enough for half precision.
        base (`torch.Tensor`, *optional*): (B, classes), f(x) of the one-sided difference, by default `logits`.
        keep_graph (`bool`): False frees the graph of `logits` with its input gradient, where nothing else needs it (a
            one-sided difference then takes `base` from another pass); a second label makes it anew.

    The other arguments are those of [`exact_guidance`]; fused attention is fine here.
    """
    _check(pixels, labels, provenance, guided)
    sums, still = _Sums(pixels, labels, guided, form), _wide(pixels.detach())
    norm = still.flatten(1).norm(dim=1).clamp(min=still[0].numel() ** 0.5)
    h = step * norm
    places = []
    kind = pixels.device.type
    mixed, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

    def anew(point: torch.Tensor) -> torch.Tensor:
        with random_state.replayed(), torch.autocast(kind, dtype=dtype, enabled=mixed):
            return forward(point)

    with torch.autocast(kind, enabled=False):
        for k, (chosen, inside, scale) in enumerate(sums.places(provenance)):
            graph = logits if keep_graph or k == 0 else anew(pixels)
            gradient = input_gradient(
                graph, pixels, chosen, centered=centered, retain_graph=keep_graph, loss_scale=loss_scale
            ).requires_grad_()
            phi = form(gradient, inside, still)
            direction = torch.autograd.grad(phi.sum(), gradient)[0]
            sums.add_loss(phi.detach(), scale, gradient, inside, still)
            places.append((chosen, scale, direction))
    surrogate = sums.surrogate
    for chosen, scale, direction in places:
        length = direction.flatten(1).norm(dim=1)
        expand = (-1,) + (1,) * (pixels.ndim - 1)
        moved = (h / length.clamp(min=torch.finfo(torch.float32).tiny)).view(expand) * direction

        def at(point: torch.Tensor, chosen: torch.Tensor = chosen) -> torch.Tensor:
            return chosen_logit(anew(point.to(pixels.dtype)), chosen, centered)

        if central:
            slope = (at(still + moved) - at(still - moved)) / (2 * h)
        else:
            slope = (at(still + moved) - chosen_logit(logits if base is None else base, chosen, centered)) / h
        surrogate = surrogate + torch.where(scale > 0, scale * length * slope, 0)
    return sums.result(surrogate)
