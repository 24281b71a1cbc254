"""The last layer of a classifier that still has a place for every part of the input, found in its forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from hf_pgg.guidance.modes import evaluation_mode


class AttributionError(ValueError):
    """The model has no layer that a method needs. The message names a method that serves it.

    Example:
        >>> str(AttributionError("ViT has no feature map: use `grad_cam`"))
        'ViT has no feature map: use `grad_cam`'
    """


Layout = Callable[[torch.Tensor], torch.Tensor]
"""How the output of a layer becomes (B, D, [T',] h, w)."""

# places that are perturbed to show that a layer's map is the image's: shares of height and width, of the clip's length
# too; rows and columns run against each other, so that no (query, key) matrix of attention passes for a map
_PROBES = ((0.0, 1.0, 0.0), (1.0, 0.0, 1.0), (0.2, 0.7, 0.6), (0.7, 0.3, 0.2), (0.4, 0.9, 0.9), (0.9, 0.4, 0.4))


@dataclass
class SpatialFeatures:
    """The last spatial layer of a forward pass.

    Attributes:
        activations, gradients: The layer's output and the gradient of the target's logit there, (B, D, [T',] h, w)
            float32.
        head: The modules between the layer and the logits, each with its input.
        layer: Name of the layer.
        layout: How the layer's output, or another tensor of its tokens (B, N, D), becomes (B, D, [T',] h, w).

    Example:
        >>> SpatialFeatures(torch.rand(1, 8, 4, 4), torch.rand(1, 8, 4, 4), [], "stage.3", lambda tokens: tokens).layer
        'stage.3'
    """

    activations: torch.Tensor
    gradients: torch.Tensor
    head: list[tuple[nn.Module, torch.Tensor]]
    layer: str
    layout: Layout


@dataclass
class _Call:
    """One call of a module in a forward pass: its name, output, and first input."""

    name: str
    module: nn.Module
    output: torch.Tensor
    first: torch.Tensor | None

    @property
    def is_block(self) -> bool:
        """Whether its output is tokens, and not those of a norm."""
        return self.output.ndim == 3 and "norm" not in type(self.module).__name__.lower()


def spatial_features(model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor) -> SpatialFeatures:
    """Finds the last layer whose output is a map of the input and receives the logit's gradient.

    Outputs (B, D, h, w) and (B, h, w, D) of any module count, and the tokens (B, N, D) of norms; where none of them
    serves, the tokens of modules made of others. A layer is taken only if it is shown to belong to the image: where a
    patch of the image changes, its map must change at the place of the patch, and not with the batch's other images. A
    head on the class token alone sends no gradient back to the patches of the last block's output: there it is the norm
    before the last attention that counts, which is what Grad-CAM on transformers uses.

    Args:
        model (`nn.Module`): A classifier that takes `pixel_values` and returns `logits`.
        pixel_values (`torch.Tensor`): Its input, (B, [T,] C, H, W).
        target (`torch.Tensor`): The class whose logit is followed, (B,) int64.

    Raises:
        AttributionError: If there is no such layer.

    Example:
        >>> spatial_features(model, torch.rand(2, 3, 16, 16), torch.tensor([0, 1])).activations.shape
        torch.Size([2, 8, 4, 4])
    """
    with evaluation_mode(model), torch.enable_grad():
        pixels = pixel_values.detach().clone().requires_grad_()
        logits, calls = _recorded(model, pixels)
        layouts = [_layouts(call, pixels, model) if call.output.requires_grad else [] for call in calls]
        places = [i for i, found in enumerate(layouts) if found]
        chosen = logits.float().gather(1, target[:, None]).sum()
        outputs = [calls[i].output for i in places]
        gradients = torch.autograd.grad(chosen, outputs, allow_unused=True) if outputs else ()
    followed = [(i, gradient) for i, gradient in zip(places, gradients, strict=True) if gradient is not None][::-1]
    # the sort keeps the order of the calls, last first
    for i, gradient in sorted(followed, key=lambda each: calls[each[0]].is_block):
        for number, layout in enumerate(layouts[i]):
            spread = layout(gradient).float()
            reached = (spread.abs().amax(1).flatten(1) > 0).float().mean(1)
            if reached.min() >= 0.5 and _is_map(model, pixel_values, i, number, layout, calls[i].output):
                head = [(call.module, call.first.detach()) for call in calls[i + 1 :] if call.first is not None]
                activations = layout(calls[i].output).detach().float()
                return SpatialFeatures(activations, spread, head, calls[i].name, layout)
    raise AttributionError(
        f"{type(model).__name__} has no layer whose output keeps the places of the input: use `input_gradient`"
    )


def _recorded(
    model: nn.Module, pixels: torch.Tensor, keep: Callable[[int], bool] = lambda number: True
) -> tuple[torch.Tensor, list[_Call]]:
    """The logits of a forward pass, and its calls of modules whose number is kept, in order."""
    calls: list[_Call] = []
    numbers = count()

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            first = output[0] if isinstance(output, tuple) and output else output
            if isinstance(first, torch.Tensor) and keep(next(numbers)):
                given = inputs[0] if inputs and isinstance(inputs[0], torch.Tensor) else None
                calls.append(_Call(name, module, first, given))

        return hook

    handles = [module.register_forward_hook(record(name)) for name, module in model.named_modules() if name]
    try:
        return model(pixel_values=pixels).logits, calls
    finally:
        for handle in handles:
            handle.remove()


_shown: WeakKeyDictionary[nn.Module, dict[Any, bool]] = WeakKeyDictionary()  # it is a matter of the architecture


def _is_map(
    model: nn.Module, pixels: torch.Tensor, number: int, order: int, layout: Layout, output: torch.Tensor
) -> bool:
    """Whether a layer's output follows each image of the batch, place by place; shown once for a model."""
    key = (number, order, tuple(pixels.shape[1:]))
    known = _shown.setdefault(model, {})
    if key not in known:
        image, grid = pixels[:1].detach(), layout(output[:1].detach().float())[0]
        with evaluation_mode(model), torch.no_grad():
            known[key] = _follows_places(model, image, number, layout, grid)
            scale = -(-8 // min(grid.shape[-2:]))
            if (
                not known[key] and scale > 1
            ):  # of few places each may see the whole image: a larger one tells them apart
                known[key] = _follows_places(model, _larger(image, scale), number, layout, None)
    return known[key]


def _larger(image: torch.Tensor, scale: int) -> torch.Tensor:
    return image.repeat_interleave(scale, dim=-2).repeat_interleave(scale, dim=-1)


def _follows_places(
    model: nn.Module, image: torch.Tensor, number: int, layout: Layout, alone: torch.Tensor | None
) -> bool:
    """Changes patches of an image (1, [T,] C, H, W), each in a copy, and looks where the layer's output changes.

    `alone` is the output (D, [T',] h, w) for the image in its own batch; None has the model take it anew.
    """
    if alone is None:
        try:
            _, (call,) = _recorded(model, image, keep=lambda i: i == number)
            alone = layout(call.output.float())[0]
        except Exception:  # a model of one input size says so in its own way
            return False
    grid = alone.shape[1:]
    shares = torch.tensor(_PROBES)[:, [2, 0, 1][-len(grid) :]]
    cells = (shares * (torch.tensor(grid) - 1)).round().long().unique(dim=0)
    copies = image.repeat(len(cells) + 1, *(1,) * (image.ndim - 1))
    axes = [1, image.ndim - 2, image.ndim - 1][-len(grid) :]
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
    noise = noise * 2 * image.std().clamp(min=0.1)
    for k, cell in enumerate(cells.tolist()):
        patch: list[Any] = [slice(None)] * image.ndim
        for axis, place, places in zip(axes, cell, grid, strict=True):
            side = image.shape[axis]
            patch[axis] = slice(place * side // places, -(-(place + 1) * side // places))
        patch[0] = k + 1
        copies[tuple(patch)] += noise[(0, *patch[1:])]
    _, (call,) = _recorded(model, copies, keep=lambda i: i == number)
    if len(call.output) != len(copies):
        return False
    unchanged, *changed = layout(call.output.float()).unbind()
    scale = float(alone.abs().max())
    if scale == 0 or unchanged.shape != alone.shape or not torch.allclose(unchanged, alone, 1e-2, 1e-2 * scale):
        return False  # the neighbours in a batch show in it
    energy = torch.stack([((each - unchanged) / scale).square().sum(0).flatten() for each in changed])
    energy = (energy - energy.median(1, keepdim=True).values).clamp(min=0)  # what changes everywhere says nothing
    if (energy.sum(1) <= 0).any():
        return False
    indices = torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), -1).view(-1, len(grid)).to(energy)
    found, expected = energy @ indices / energy.sum(1, keepdim=True), cells.to(energy)
    moving = expected.std(0) > 0
    together = torch.stack([found - found.mean(0), expected - expected.mean(0)])
    correlation = together.prod(0).sum(0) / together.norm(dim=1).prod(0).clamp(min=1e-12)
    return bool((correlation[moving] > 0.7).all())


def _layouts(call: _Call, pixels: torch.Tensor, model: nn.Module) -> list[Layout]:
    """The ways in which an output may be a map, of which [`_is_map`] chooses; none if it has no places."""
    output, (height, width) = call.output, pixels.shape[-2:]
    if output.shape[0] != pixels.shape[0]:
        return []
    if output.ndim == 4 and pixels.ndim == 4:
        first, last = output.shape[2:], output.shape[1:3]
        found: list[tuple[torch.Size, Layout]] = [(first, lambda t: t), (last, lambda t: t.permute(0, 3, 1, 2))]
        return [
            layout for (h, w), layout in found if min(h, w) > 1 and abs(h * width - w * height) < max(height, width)
        ]
    if output.ndim != 3 or (call.is_block and not any(True for _ in call.module.children())):
        return []
    return [_of_tokens(grid) for grid in _token_grids(output.shape[1], pixels, model)]


def _of_tokens(grid: tuple[int, ...]) -> Layout:
    """The layout of tokens (B, N, D) that stand in a grid; class tokens come first."""
    places = torch.Size(grid).numel()
    if len(grid) == 4:  # (h, w, T', 1): TimeSformer's order, the frames of a patch side by side
        return lambda t: t[:, -places:].transpose(1, 2).unflatten(2, grid[:3]).permute(0, 1, 4, 2, 3)
    return lambda t: t[:, -places:].transpose(1, 2).unflatten(2, grid)


def token_grid(tokens: int, pixels: torch.Tensor, model: nn.Module) -> tuple[int, ...] | None:
    """Returns the shape (h, w) of the patch tokens, from the model's patch size or from their number alone.

    Example:
        >>> token_grid(17, torch.zeros(1, 3, 16, 16), model)  # patches of 4 pixels, and a class token
        (4, 4)
    """
    return next(iter(_token_grids(tokens, pixels, model)), None)


def _token_grids(tokens: int, pixels: torch.Tensor, model: nn.Module) -> list[tuple[int, ...]]:
    """The grids that so many tokens may form, beside a class, a distillation and some register tokens; likely first."""
    height, width = pixels.shape[-2:]
    config: Any = getattr(model, "config", None)
    patch = getattr(config, "patch_size", None)
    spatial = [(height // patch, width // patch)] if isinstance(patch, int) else []
    if pixels.ndim == 5:
        tubelet = getattr(config, "tubelet_size", 1)
        times = dict.fromkeys([pixels.shape[1] // (tubelet[0] if isinstance(tubelet, list) else tubelet), 1])
        grids = [grid for time in times for h, w in spatial for grid in ((time, h, w), (h, w, time, 1))]
        return _fitting(tokens, grids)
    rows = range(int((tokens * height / width) ** 0.5 + 1), 1, -1)
    sizes = [(h, h * width // height + more) for h in rows for more in (0, 1)]  # a side may have been rounded up
    return _fitting(
        tokens, spatial + [(h, w) for h, w in sizes if w > 1 and abs(h * width - w * height) < max(height, width)]
    )


def _fitting(tokens: int, grids: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    return list(dict.fromkeys(grid for grid in grids if 0 <= tokens - torch.Size(grid).numel() < 16))
