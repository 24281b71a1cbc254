"""Two ways to the parameter gradient of the guidance loss, for any form of it.

For a sample x with distinct labels c and target masks I_c, a form phi turns the input gradient g_c = d f_c / d x of the
label's logit f_c into a penalty, and the loss L_PG(x) is the sum or the mean of phi(g_c, I_c, x) over c. *Exact*
guidance differentiates twice. *First-order* guidance uses d phi / d theta = d / d theta <w, g> with w = d phi / d g
held fixed, and takes the directional derivative <w, g> = ||w|| (f(x + h u) - f(x)) / h along u = w / ||w|| from a
second forward pass: no second derivative anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from hf_pgg.guidance.forms import Form, share
from hf_pgg.guidance.modes import RandomState


@dataclass
class Guidance:
    """What the guidance of one batch gives: four tensors (B,), in float32 or wider, 0 for rows without guidance.

    Args:
        loss: L_PG of each sample, detached.
        surrogate: A tensor whose parameter gradient is that of `loss`; its value means nothing in first-order mode.
        target_share: Share of the input gradient's energy inside the target, averaged over the labels, detached.
        measured: bool: the rows that were guided.

    Example:
        >>> Guidance(torch.ones(1), torch.zeros(1, requires_grad=True), torch.ones(1), torch.tensor([True])).value
        tensor([1.], grad_fn=<AddBackward0>)
    """

    loss: torch.Tensor
    surrogate: torch.Tensor
    target_share: torch.Tensor
    measured: torch.Tensor

    @property
    def value(self) -> torch.Tensor:
        """The loss, with the surrogate's gradient."""
        return self.surrogate + (self.loss - self.surrogate).detach()


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """At least float32: half precisions are widened, float64 is kept."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _chosen_logit(logits: torch.Tensor, labels: torch.Tensor, centered: bool) -> torch.Tensor:
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
    """Returns the gradient of one label's logit with respect to the input, in float32 or wider, of the input's shape.

    Args:
        logits (`torch.Tensor`): (B, classes), computed from `pixels` row by row, without batch statistics.
        pixels (`torch.Tensor`): The input (B, ...), with `requires_grad`.
        labels (`torch.Tensor`): (B,) int64; -100 gives a zero gradient.
        centered (`bool`): Take the logit less the mean of all logits.
        loss_scale (`float`): Multiplies the logit before and divides the gradient after the backward pass, so that
            gradients in float16 do not underflow; the trainer's own loss scaler does not see this pass.

    Example:
        >>> pixels = torch.ones(1, 3, requires_grad=True)
        >>> input_gradient(pixels * torch.tensor([1.0, 2.0, 3.0]), pixels, torch.tensor([2]))
        tensor([[0., 0., 3.]])
    """
    total = _chosen_logit(logits, labels, centered).sum() * loss_scale
    gradient = torch.autograd.grad(total, pixels, create_graph=create_graph, retain_graph=retain_graph)[0]
    return _wide(gradient) / loss_scale


def over_channels(mask: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Returns a mask as it broadcasts to the input: (B, [T,] H, W) gets a channel axis, the input's shape stays.

    Example:
        >>> over_channels(torch.ones(2, 8, 8), torch.ones(2, 3, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """
    return mask if mask.ndim == pixels.ndim else mask.unsqueeze(-3)


def known_targets(labels: torch.Tensor, provenance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns labels and masks without those labels whose mask is NaN, hence not known: they are not guided.

    Example:
        >>> known_targets(torch.tensor([[3, 5]]), torch.tensor([[[1.0], [torch.nan]]]))
        (tensor([[   3, -100]]), tensor([[[1.],
                 [0.]]]))
    """
    unknown = provenance.flatten(2)[:, :, 0].isnan()
    return labels.masked_fill(unknown, -100), provenance.nan_to_num(0)


class _Sums:
    """Checks a batch, and adds up the parts of its [`Guidance`] over the places k = 1..K of the labels."""

    def __init__(
        self, pixels: torch.Tensor, labels: torch.Tensor, provenance: torch.Tensor, guided: torch.Tensor, form: Form
    ):
        Form.require(form)
        _check_shapes(pixels, labels, provenance, guided)
        labels, provenance = known_targets(labels, provenance)
        self.labels, self.provenance, self.guided = labels, provenance, guided
        self.still = _wide(pixels.detach())
        count = (labels >= 0).sum(1).clamp(min=1)
        self.each = torch.ones_like(guided, dtype=torch.float32) if form.over_labels == "sum" else 1 / count
        self.loss = torch.zeros(len(pixels), device=pixels.device, dtype=self.still.dtype)
        self.share, self.counted = torch.zeros_like(self.loss), torch.zeros_like(self.loss)

    def places(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """For each place: labels (B,), -100 where nothing is guided; masks as broad as the input; scale (B,)."""
        for k in range(self.labels.shape[1]):
            chosen = self.labels[:, k].masked_fill(~self.guided, -100)
            yield chosen, over_channels(_wide(self.provenance[:, k]), self.still), self.each * (chosen >= 0)

    def add(self, phi: torch.Tensor, scale: torch.Tensor, gradient: torch.Tensor, inside: torch.Tensor) -> None:
        # `where`, not a product: a row without guidance must not bring in its own inf or NaN
        self.loss = self.loss + scale * torch.where(scale > 0, phi, 0)
        self.share += torch.where(scale > 0, 1 - share(gradient.detach(), inside, self.still), 0)
        self.counted += scale > 0

    def result(self, surrogate: torch.Tensor) -> Guidance:
        return Guidance(self.loss.detach(), surrogate, self.share / self.counted.clamp(min=1), self.counted > 0)


def _check_shapes(pixels: torch.Tensor, labels: torch.Tensor, provenance: torch.Tensor, guided: torch.Tensor) -> None:
    expected = (*labels.shape, *pixels.shape[1:-3], *pixels.shape[-2:])
    whole = (*labels.shape, *pixels.shape[1:])
    if tuple(provenance.shape) not in (expected, whole):
        raise ValueError(
            f"provenance has shape {tuple(provenance.shape)}, expected {expected}: (B, K, [T,] H, W), or {whole} with a"
            " value for every element of the input"
        )
    if guided.shape != labels.shape[:1]:
        raise ValueError(f"guided has shape {tuple(guided.shape)}, expected {tuple(labels.shape[:1])}: one bool a row")
    ordered = labels.sort(1).values
    repeated = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(1)
    if repeated.any():
        i = int(repeated.nonzero()[0])
        raise ValueError(
            f"row {i} of the batch has the labels {labels[i].tolist()}, one of them twice: merge its sources first,"
            " with `provenance.merge_sources`"
        )


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
    """Returns the guidance of a batch, by differentiating twice.

    Args:
        logits (`torch.Tensor`): (B, classes), computed from `pixels` without batch statistics, and inside
            [`~hf_pgg.guidance.modes.second_derivatives`] where the model has attention.
        pixels (`torch.Tensor`): (B, [T,] C, H, W), or an input of any other shape, with `requires_grad`.
        labels (`torch.Tensor`): (B, K) int64, distinct in a row, padded with -100.
        provenance (`torch.Tensor`): (B, K, [T,] H, W) in [0, 1] for all channels, or (B, K, ...) of the input's shape;
            NaN for a label whose target is not known, which is then not guided.
        guided (`torch.Tensor`): (B,) bool, False for rows without provenance.
        form ([`~hf_pgg.guidance.forms.Form`]): The loss of one label.
        centered, loss_scale: See [`input_gradient`].

    Raises:
        TypeError: If `form` is a plain function.
        ValueError: If shapes disagree or a row's labels repeat.

    Example:
        >>> pixels, inside = torch.ones(1, 1, 2, 2, requires_grad=True), torch.tensor([[[[1.0, 1.0], [1.0, 0.0]]]])
        >>> logits = pixels.flatten(1).sum(1, keepdim=True)
        >>> exact_guidance(logits, pixels, torch.tensor([[0]]), inside, torch.tensor([True])).loss
        tensor([0.2500])
    """
    sums = _Sums(pixels, labels, provenance, guided, form)
    with torch.autocast(pixels.device.type, enabled=False):
        for chosen, inside, scale in sums.places():
            gradient = input_gradient(
                logits, pixels, chosen, centered=centered, create_graph=True, loss_scale=loss_scale
            )
            sums.add(form(gradient, inside, sums.still), scale, gradient, inside)
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
    """Returns the guidance of a batch whose parameter gradient comes from a finite difference: ordinary passes only.

    Args:
        forward (`Callable`): pixels -> logits, the pass that made `logits`; `random_state` was taken before it.
        step (`float`): h relative to max(||x||, sqrt(number of elements)) of each sample.
        central (`bool`): (f(x + h u) - f(x - h u)) / 2h: the error falls with h^2, so h suits half precision.
        base (`torch.Tensor`, *optional*): (B, classes), f(x) of the one-sided difference, by default `logits`.
        keep_graph (`bool`): False frees the graph of `logits` early, and a second label makes it anew.

    The other arguments, and what is raised, are those of [`exact_guidance`]; fused attention is fine here.

    Example:
        >>> pixels, state = torch.ones(1, 1, 2, 2, requires_grad=True), RandomState(torch.device("cpu"))
        >>> forward = lambda x: x.flatten(1) ** 2
        >>> batch = (pixels, torch.tensor([[0]]), torch.zeros(1, 1, 2, 2), torch.tensor([True]))
        >>> first_order_guidance(forward, forward(pixels), *batch, random_state=state).loss
        tensor([1.])
    """
    sums, kind = _Sums(pixels, labels, provenance, guided, form), pixels.device.type
    again = random_state.replaying(forward, kind)
    directions = []
    with torch.autocast(kind, enabled=False):
        for k, (chosen, inside, scale) in enumerate(sums.places()):
            graph = logits if keep_graph or k == 0 else again(pixels)
            gradient = input_gradient(
                graph, pixels, chosen, centered=centered, retain_graph=keep_graph, loss_scale=loss_scale
            ).requires_grad_()
            phi = form(gradient, inside, sums.still)
            directions.append((chosen, scale, torch.autograd.grad(phi.sum(), gradient)[0]))
            sums.add(phi.detach(), scale, gradient, inside)
    h = step * sums.still.flatten(1).norm(dim=1).clamp(min=sums.still[0].numel() ** 0.5)
    surrogate, base = torch.zeros_like(sums.loss), logits if base is None else base
    for chosen, scale, direction in directions:
        length = direction.flatten(1).norm(dim=1)
        move = (h / length.clamp(min=torch.finfo(torch.float32).tiny)).view(-1, *[1] * (pixels.ndim - 1)) * direction
        ahead = _chosen_logit(again((sums.still + move).to(pixels.dtype)), chosen, centered)
        if central:
            behind = _chosen_logit(again((sums.still - move).to(pixels.dtype)), chosen, centered)
            slope = (ahead - behind) / (2 * h)
        else:
            slope = (ahead - _chosen_logit(base, chosen, centered)) / h
        surrogate = surrogate + torch.where(scale > 0, scale * length * slope, 0)
    return sums.result(surrogate)
