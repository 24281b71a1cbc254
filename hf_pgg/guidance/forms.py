"""The guidance loss of one label: a *form* turns the input gradient g and the target mask I into one number a sample.

    l2       sum of ((1 - I) g)^2                    the loss of PGG (arXiv 2604.02946); it has the unit of the model
    l2_mean  l2 over the number of elements          the same, averaged: the paper does not say which
    share    l2 over the sum of g^2                  the share of the gradient's energy outside the target
    energy   1 - sum of I a / sum of a               the Energy loss of Rao et al., "Studying how to efficiently and
                                                     effectively guide models with explanations" (ICCV 2023), on input
                                                     times gradient: a = (sum of g x over the channels)^+

`share` and `energy` lie in [0, 1] and have no unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Phi = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""A function of the gradient (B, ...), the mask (which broadcasts to it) and the input (B, ...) to (B,), float32."""

_EPSILON = 1e-12  # of the sum of g^2: only keeps 0 / 0 from being NaN, far below any trained model's gradient


@dataclass(frozen=True)
class Form:
    """A form of the guidance loss; call it as `form(gradient, inside, pixels)`.

    Args:
        phi (`Callable`): Takes the gradient (B, ...), the mask of the target (1 inside; it broadcasts to the gradient)
            and the input (B, ...), and returns the loss (B,). It must be differentiable in the gradient.
        over_labels (`str`): `"sum"` or `"mean"` (else ValueError): how a sample with several labels adds up.

    Example:
        >>> absolute = Form("absolute", lambda g, inside, x: ((1 - inside) * g).abs().flatten(1).sum(1), "sum")
        >>> absolute(torch.ones(1, 3, 2, 2), torch.eye(2), torch.zeros(1, 3, 2, 2))
        tensor([6.])
    """

    name: str
    phi: Phi
    over_labels: str

    def __post_init__(self) -> None:
        if self.over_labels not in ("sum", "mean"):
            raise ValueError(f"over_labels of the form '{self.name}' is {self.over_labels!r}: give 'sum' or 'mean'")

    @classmethod
    def require(cls, form: Form) -> None:
        """Raises a TypeError for a plain function, which does not say how a sample's labels add up."""
        if not isinstance(form, cls):
            raise TypeError(
                f"the form is {form!r}: give `Form('my form', function, over_labels='mean')`, which says whether a"
                " sample's labels are summed or averaged"
            )

    def __call__(self, gradient: torch.Tensor, inside: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        return self.phi(gradient, inside, pixels)


def _sum(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1).sum(1)


def _l2(gradient: torch.Tensor, inside: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    return _sum(((1 - inside) * gradient) ** 2)


def _l2_mean(gradient: torch.Tensor, inside: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    return _l2(gradient, inside, pixels) / gradient[0].numel()


def _share(gradient: torch.Tensor, inside: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    return _l2(gradient, inside, pixels) / (_sum(gradient**2) + _EPSILON)


def _energy(gradient: torch.Tensor, inside: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    shape = (1,) * (gradient.ndim - inside.ndim) + tuple(inside.shape)
    channels = [axis for axis in range(1, gradient.ndim) if shape[axis] == 1 < gradient.shape[axis]]  # under one mask
    attribution = gradient * pixels
    if channels:
        attribution = attribution.sum(channels, keepdim=True)
    attribution = attribution.clamp(min=0)  # summed first, as in the authors' code
    return _sum((1 - inside) * attribution) / (_sum(attribution) + _EPSILON)


# the paper sums over a sample's labels; the forms without unit average, to stay in [0, 1]
l2 = Form("l2", _l2, over_labels="sum")
l2_mean = Form("l2_mean", _l2_mean, over_labels="sum")
share = Form("share", _share, over_labels="mean")
energy = Form("energy", _energy, over_labels="mean")

FORMS = {form.name: form for form in (l2, l2_mean, share, energy)}
