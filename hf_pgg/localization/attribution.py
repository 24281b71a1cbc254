"""Attribution maps: where in the input a trained classifier finds the evidence for a class.

Every method is called as `method(model, pixel_values, target)` on any classifier that takes `pixel_values` and returns
`logits` (`transformers`, its timm wrapper, VideoMAE), and gives one map a sample, of the input's own height and width.
No layer is named by hand: [`~hf_pgg.localization.features.spatial_features`] finds it.

    cam                 class activation map (Zhou et al., CVPR 2016), for heads of pooling and one linear layer
    grad_cam            Grad-CAM (Selvaraju et al., ICCV 2017), for every head
    guided_grad_cam     Grad-CAM times guided backpropagation (ibid.; Springenberg et al., ICLR workshop 2015)
    input_gradient      norm over the channels of d f_c / d x (Simonyan et al., ICLR workshop 2014)
    smooth_gradient     SmoothGrad (Smilkov et al., 2017): the same, averaged over noisy copies of the input
    attention_rollout   attention multiplied through the layers (Abnar and Zuidema, ACL 2020), the same for every class

The input gradient comes from captum.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from captum.attr import Saliency
from timm.layers import create_act as timm_activations
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as vision
from transformers import activations as hf_activations

from hf_pgg.guidance.modes import evaluation_mode
from hf_pgg.localization.features import AttributionError, spatial_features, token_grid

Method = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
"""(model, pixel_values (B, [T,] C, H, W), target (B,) int64) -> (B, [T,] H, W) float32, detached."""


# ---------------------------------------------------------------------------------------------- from the input


def input_gradient_map(
    model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor, *, smoothing: float = 0.0
) -> torch.Tensor:
    """Returns the norm over the channels of the gradient of the target's logit: the method `input_gradient`.

    `smoothing` is the deviation of a Gaussian over the map, as a share of the input's shorter side. A raw gradient is
    too grainy for a box; 0.05 is a good start.

    Example:
        >>> input_gradient_map(model, torch.rand(2, 3, 16, 16), torch.tensor([0, 1])).shape
        torch.Size([2, 16, 16])
    """
    return _blurred(_gradient(model, pixel_values, target).norm(dim=-3), smoothing)


def smooth_gradient(
    model: nn.Module,
    pixel_values: torch.Tensor,
    target: torch.Tensor,
    *,
    samples: int = 16,
    noise: float = 0.15,
    smoothing: float = 0.0,
    seed: int = 0,
) -> torch.Tensor:
    """Returns the norm of the input gradient averaged over noisy copies of the input (SmoothGrad).

    Args:
        samples (`int`): Number of noisy copies, one backward pass each.
        noise (`float`): Standard deviation of the noise, as a share of each row's range of values.
        seed (`int`): Seed of the noise; the global random state is left alone.

    Example:
        >>> smooth_gradient(model, torch.rand(1, 3, 16, 16), torch.tensor([0]), samples=2).shape
        torch.Size([1, 16, 16])
    """
    spread = pixel_values.flatten(1).amax(1) - pixel_values.flatten(1).amin(1)
    deviation = noise * spread.view(-1, *(1,) * (pixel_values.ndim - 1))
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(pixel_values, dtype=torch.float32)
    for _ in range(samples):  # all rows get the same noise, so that a map does not depend on its neighbours
        drawn = torch.randn(pixel_values.shape[1:], generator=generator).to(pixel_values)
        total += _gradient(model, pixel_values + deviation * drawn, target)
    return _blurred((total / samples).norm(dim=-3), smoothing)


def _gradient(model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The gradient of the target's logit in the input, float32."""
    saliency: Any = Saliency(lambda pixels: model(pixel_values=pixels).logits.float())
    with evaluation_mode(model), torch.enable_grad():
        pixels = pixel_values.detach().clone().requires_grad_()
        return saliency.attribute(pixels, target=target, abs=False).detach().float()


def _blurred(maps: torch.Tensor, smoothing: float) -> torch.Tensor:
    """The maps under a Gaussian whose deviation is a share of their shorter side."""
    if smoothing <= 0:
        return maps
    sigma = smoothing * min(maps.shape[-2:])
    width = 2 * min(int(3 * sigma + 0.5), min(maps.shape[-2:]) - 1) + 1  # reflection needs less than the side
    return vision.gaussian_blur(maps.flatten(0, -3)[:, None], [width, width], [sigma, sigma])[:, 0].view_as(maps)


def blurred_over_time(maps: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Blurs the maps of clips (B, T, H, W) over their frames; the Gaussian's weights sum to 1 at the ends too.

    `smoothing` is the standard deviation, as a share of T: at 1 nearly the clip's mean map, 0 changes nothing.

    Example:
        >>> blurred_over_time(torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1), 0.5).flatten()
        tensor([0.3620, 0.3844, 0.3620])
    """
    if smoothing <= 0:
        return maps
    frames = torch.arange(maps.shape[1], dtype=maps.dtype, device=maps.device)
    weights = torch.exp(-(((frames[:, None] - frames) / (smoothing * len(frames))) ** 2) / 2)
    return torch.einsum("st,bthw->bshw", weights / weights.sum(1, keepdim=True), maps)


# ---------------------------------------------------------------------------------------------- from the features


def cam(model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns the class activation map: the features of each place times the target's weights in the last layer.

    A layer norm between pooling and that layer (ConvNeXt) is taken as linear, its statistics held fixed, so that the
    mean of the map over the places is the logit up to a constant.

    Raises:
        AttributionError: If the head is not pooling, at most a layer norm, and one linear layer.

    Example:
        >>> from transformers import ConvNextConfig, ConvNextForImageClassification
        >>> convnext = ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[4] * 4, depths=[1] * 4))
        >>> cam(convnext, torch.rand(1, 3, 64, 64), torch.tensor([1])).shape
        torch.Size([1, 64, 64])
    """
    features = spatial_features(model, pixel_values, target)
    depth = features.activations.shape[1]
    linear = [module for module, _ in features.head if isinstance(module, nn.Linear)]
    if len(linear) != 1 or linear[0].in_features != depth or features.activations.ndim != 4:
        raise AttributionError(
            f"CAM needs a head of pooling and one linear layer on the {depth} channels of '{features.layer}'; that of"
            f" {type(model).__name__} is another: use `grad_cam`"
        )
    weights = linear[0].weight.detach().float()[target]
    for module, pooled in features.head:
        if isinstance(module, nn.LayerNorm):
            deviation = (pooled.float().reshape(len(weights), depth).var(1, unbiased=False) + module.eps).sqrt()
            scaled = weights if module.weight is None else weights * module.weight.detach().float()
            weights = (scaled - scaled.mean(1, keepdim=True)) / deviation[:, None]
    return _enlarged((weights[:, :, None, None] * features.activations).sum(1), pixel_values)


def grad_cam(model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns the features weighted by their gradient's mean over the places, negative evidence cut off.

    Example:
        >>> grad_cam(model, torch.rand(1, 3, 16, 16), torch.tensor([0])).min() >= 0
        tensor(True)
    """
    features = spatial_features(model, pixel_values, target)
    weights = features.gradients.flatten(2).mean(2)
    weights = weights.view(*weights.shape, *(1,) * (features.activations.ndim - 2))
    return _enlarged((weights * features.activations).sum(1).clamp(min=0), pixel_values)


def guided_grad_cam(
    model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor, *, smoothing: float = 0.0
) -> torch.Tensor:
    """Returns Grad-CAM times the norm of the guided input gradient, blurred as in [`input_gradient_map`].

    Guided backpropagation lets only positive gradients through each activation. captum's knows ReLU alone; here every
    elementwise activation counts (ReLU6, GELU, SiLU, ...).

    Example:
        >>> guided_grad_cam(model, torch.rand(1, 3, 16, 16), torch.tensor([0])).shape
        torch.Size([1, 16, 16])
    """
    activations = [module for module in model.modules() if isinstance(module, _ACTIVATIONS)]
    handles = [module.register_full_backward_hook(_positive) for module in activations]
    try:
        with _not_in_place(model):
            guided = _gradient(model, pixel_values, target).norm(dim=-3)
    finally:
        for handle in handles:
            handle.remove()
    return grad_cam(model, pixel_values, target) * _blurred(guided, smoothing)


def _positive(module: nn.Module, grad_input: Any, grad_output: Any) -> tuple[torch.Tensor, ...]:
    return (grad_input[0].clamp(min=0),)


def _activation_classes() -> tuple[type[nn.Module], ...]:
    """The elementwise activations of torch, transformers and timm."""
    spaces = (torch.nn.modules.activation, hf_activations, timm_activations)
    excluded = (nn.MultiheadAttention, nn.Softmax, nn.Softmin, nn.LogSoftmax, nn.Softmax2d, nn.GLU)
    classes: Any = [each for space in spaces for each in vars(space).values() if isinstance(each, type)]
    modules = [each for each in dict.fromkeys(classes) if issubclass(each, nn.Module) and each is not nn.Module]
    return tuple(each for each in modules if not issubclass(each, excluded))


_ACTIVATIONS = _activation_classes()


@contextlib.contextmanager
def _not_in_place(model: nn.Module) -> Iterator[None]:
    """Backward hooks cannot watch an activation that overwrites its input."""
    changed: list[Any] = [module for module in model.modules() if getattr(module, "inplace", False) is True]
    for module in changed:
        module.inplace = False
    try:
        yield
    finally:
        for module in changed:
            module.inplace = True


def attention_rollout(model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns what the class token (without one: the mean token) gathers from each patch, whatever the `target`.

    Raises:
        AttributionError: If the layers give no attention weights, or not over the whole input (windows).

    Example:
        >>> attention_rollout(model, torch.rand(1, 3, 16, 16), torch.tensor([0])).shape
        torch.Size([1, 16, 16])
    """
    with evaluation_mode(model), torch.no_grad():
        weights = _attentions(model, pixel_values)
    tokens = weights[0].shape[-1]
    identity = torch.eye(tokens, device=pixel_values.device)
    total = identity.expand(len(pixel_values), -1, -1)
    for attention in weights:
        total = (attention.float().mean(1) / 2 + identity / 2) @ total
    grid = token_grid(tokens, pixel_values, model)
    if grid is None:
        raise AttributionError(f"{tokens} tokens form no grid of the input's shape: use `grad_cam`")
    gathered = total[:, 0] if tokens > torch.Size(grid).numel() else total.mean(1)
    if pixel_values.ndim == 4:
        return _enlarged(gathered[:, -torch.Size(grid).numel() :].unflatten(1, grid), pixel_values)
    layout = spatial_features(model, pixel_values, target).layout  # the order of a clip's tokens is the model's own
    return _enlarged(layout(gathered[:, :, None])[:, 0], pixel_values)


def _attentions(model: Any, pixel_values: torch.Tensor) -> list[torch.Tensor]:
    """(B, heads, N, N) of each layer, first to last, all of the same N: attention over the whole input."""
    found: list[Any] = []
    timm_blocks: list[Any] = [module for module in model.modules() if getattr(module, "fused_attn", None) is not None]
    if timm_blocks and all(hasattr(block, "attn_drop") for block in timm_blocks):
        fused = [block.fused_attn for block in timm_blocks]
        handles = [block.attn_drop.register_forward_hook(lambda _, __, out: found.append(out)) for block in timm_blocks]
        for block in timm_blocks:
            block.fused_attn = False
        try:
            model(pixel_values=pixel_values)
        finally:
            for block, was, handle in zip(timm_blocks, fused, handles, strict=True):
                block.fused_attn = was
                handle.remove()
    elif not timm_blocks and hasattr(model, "set_attn_implementation") and not hasattr(model, "timm_model"):
        before = model.config._attn_implementation
        model.set_attn_implementation("eager")  # the fused kernels never form the weights
        try:
            found = list(getattr(model(pixel_values=pixel_values, output_attentions=True), "attentions", None) or [])
        finally:
            model.set_attn_implementation(before)
    shapes = {tuple(weights.shape) if isinstance(weights, torch.Tensor) else None for weights in found}
    shape = next(iter(shapes), None)
    if len(shapes) != 1 or shape is None or len(shape) != 4 or shape[0] != len(pixel_values) or shape[2] != shape[3]:
        raise AttributionError(f"{type(model).__name__} gives no attention over the whole input: use `grad_cam`")
    return found


def _enlarged(maps: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """(B, [T',] h, w) to the input's (B, [T,] H, W), bilinear (trilinear over a clip)."""
    size = list(pixels.shape[-2:]) if pixels.ndim == 4 else [pixels.shape[1], *pixels.shape[-2:]]
    mode = "bilinear" if pixels.ndim == 4 else "trilinear"
    return F.interpolate(maps[:, None], size=size, mode=mode, align_corners=False)[:, 0].detach()


# ---------------------------------------------------------------------------------------------- the baseline


def center_gaussian(
    model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor, *, spread: float = 0.25
) -> torch.Tensor:
    """Returns a Gaussian in the middle of every image: what a map must beat to locate anything (Choe et al., 2020).

    `spread` is its standard deviation, as a share of height and of width. It is no name in [`METHODS`].

    Example:
        >>> center_gaussian(model, torch.rand(1, 3, 1, 5), torch.tensor([0])).argmax().item()
        2
    """
    height, width = pixel_values.shape[-2:]
    y, x = (((torch.arange(n, device=pixel_values.device) + 0.5) / n - 0.5) / spread for n in (height, width))
    bump = torch.exp(-(y[:, None] ** 2 + x**2) / 2)
    return bump.expand(*pixel_values.shape[:-3], height, width).clone()


METHODS: dict[str, Method] = {
    "cam": cam,
    "grad_cam": grad_cam,
    "guided_grad_cam": guided_grad_cam,
    "input_gradient": input_gradient_map,
    "smooth_gradient": smooth_gradient,
    "attention_rollout": attention_rollout,
}
