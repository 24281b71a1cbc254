"""forms."""

from __future__ import annotations

from collections.abc import Callable

import torch

Form = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""phi(gradient, inside, pixels) -> (B,): gradient and pixels (B, ...) float32, inside broadcasts to them, in [0, 1]."""

_EPSILON = 1e-12  # of ||g||^2: only keeps 0 / 0 from being NaN, far below any trained model's gradient


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
