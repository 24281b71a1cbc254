"""The last layer of a classifier that still has a place for every part of the input, found in its forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hf_pgg.guidance.modes import evaluation_mode


class AttributionError(ValueError):
    """The model has no layer that a method needs. The message names a method that serves it.

    Example:
        >>> str(AttributionError("ViT has no feature map: use `grad_cam`"))
        'ViT has no feature map: use `grad_cam`'
    """


@dataclass
class SpatialFeatures:
    """The last spatial layer of a forward pass.

    Attributes:
        activations, gradients: The layer's output and the gradient of the target's logit there, (B, D, [T',] h, w)
            float32.
        head: The modules between the layer and the logits, each with its input.
        layer: Name of the layer.

    Example:
        >>> SpatialFeatures(torch.rand(1, 8, 4, 4), torch.rand(1, 8, 4, 4), head=[], layer="stage.3").layer
        'stage.3'
    """

    activations: torch.Tensor
    gradients: torch.Tensor
    head: list[tuple[nn.Module, torch.Tensor]]
    layer: str


def spatial_features(model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor) -> SpatialFeatures:
    """Finds the last layer whose output has a place for every part of the input and receives the logit's gradient.

    Outputs (B, D, h, w) and (B, h, w, D) of any module count, and the tokens (B, N, D) of layer norms. A head on the
    class token alone sends no gradient back to the patches of the last block's output: there it is the norm before the
    last attention that counts, which is what Grad-CAM on transformers uses.

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
    seen: list[tuple[str, nn.Module, torch.Tensor, torch.Tensor | None]] = []

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.requires_grad:
                first = inputs[0] if inputs and isinstance(inputs[0], torch.Tensor) else None
                seen.append((name, module, output, first))

        return hook

    with evaluation_mode(model), torch.enable_grad():
        handles = [module.register_forward_hook(record(name)) for name, module in model.named_modules() if name]
        try:
            pixels = pixel_values.detach().clone().requires_grad_()
            logits = model(pixel_values=pixels).logits
        finally:
            for handle in handles:
                handle.remove()
        places = [
            (i, layout)
            for i, (_, module, output, _) in enumerate(seen)
            if (layout := _layout(module, output, pixels, model)) is not None
        ]
        chosen = logits.float().gather(1, target[:, None]).sum()
        outputs = [seen[i][2] for i, _ in places]
        gradients = torch.autograd.grad(chosen, outputs, allow_unused=True) if outputs else ()
    for (i, layout), gradient in zip(reversed(places), reversed(gradients), strict=True):
        if gradient is None:
            continue
        spread = layout(gradient).float()
        if (spread.abs().flatten(2).amax((0, 1)) > 0).all():
            head = [(module, first.detach()) for _, module, _, first in seen[i + 1 :] if first is not None]
            return SpatialFeatures(layout(seen[i][2]).detach().float(), spread, head, seen[i][0])
    raise AttributionError(
        f"{type(model).__name__} has no layer whose output keeps the places of the input: use `input_gradient`"
    )


def _layout(
    module: nn.Module, output: torch.Tensor, pixels: torch.Tensor, model: nn.Module
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """How an output becomes (B, D, [T',] h, w), or None if it has no places."""
    height, width = pixels.shape[-2:]
    if output.shape[0] != pixels.shape[0]:
        return None
    if output.ndim == 4 and pixels.ndim == 4:
        if min(output.shape[2:]) > 1 and output.shape[2] * width == output.shape[3] * height:
            return lambda tensor: tensor
        if min(output.shape[1:3]) > 1 and output.shape[1] * width == output.shape[2] * height:
            return lambda tensor: tensor.permute(0, 3, 1, 2)
    if output.ndim == 3 and isinstance(module, nn.LayerNorm):
        grid = token_grid(output.shape[1], pixels, model)
        if grid is not None:
            count = torch.Size(grid).numel()
            return lambda tensor: tensor[:, -count:].transpose(1, 2).unflatten(2, grid)  # class tokens come first
    return None


def token_grid(tokens: int, pixels: torch.Tensor, model: nn.Module) -> tuple[int, ...] | None:
    """Returns the shape ([T',] h, w) of the patch tokens, from the model's patch size or from their number alone.

    Example:
        >>> token_grid(17, torch.zeros(1, 3, 16, 16), model)  # patches of 4 pixels, and a class token
        (4, 4)
    """
    height, width = pixels.shape[-2:]
    config: Any = getattr(model, "config", None)
    patch = getattr(config, "patch_size", None)
    if isinstance(patch, int):
        grid: tuple[int, ...] = (height // patch, width // patch)
        if pixels.ndim == 5:
            grid = (pixels.shape[1] // config.tubelet_size, *grid)
        return grid if 0 <= tokens - torch.Size(grid).numel() < 16 else None
    if pixels.ndim == 5:
        return None
    # timm: the largest grid of the input's aspect that fits, beside at most a class, a distillation and some registers
    for rows in range(int((tokens * height / width) ** 0.5 + 1e-6), 1, -1):
        columns = rows * width / height
        if columns == int(columns) and 0 <= tokens - rows * int(columns) < 16:
            return rows, int(columns)
    return None
