"""Attribution maps: where in the input a trained classifier finds the evidence for a class.

Every method is called as `method(model, pixel_values, target)` on any classifier that takes `pixel_values` and returns
`logits` (`transformers`, its timm wrapper, VideoMAE), and gives one map a sample, of the input's own height and width.
No layer is named by hand: the last layer whose output still has a place for every part of the input, and through
which the logit's gradient flows, is found in the forward pass ([`spatial_features`]).

    cam                 class activation map (Zhou et al., CVPR 2016), for heads of pooling and one linear layer
    grad_cam            Grad-CAM (Selvaraju et al., ICCV 2017), for every head
    guided_grad_cam     Grad-CAM times guided backpropagation (ibid.; Springenberg et al., ICLR workshop 2015)
    input_gradient      norm over the channels of d f_c / d x (Simonyan et al., ICLR workshop 2014)
    smooth_gradient     SmoothGrad (Smilkov et al., 2017): the same, averaged over noisy copies of the input
    attention_rollout   attention multiplied through the layers (Abnar and Zuidema, ACL 2020), the same for every class

Input gradient and SmoothGrad come from captum.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import NoiseTunnel, Saliency
from timm.layers import create_act as timm_activations
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as vision
from transformers import activations as hf_activations

from hf_pgg.guidance.modes import evaluation_mode

Method = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
"""(model, pixel_values (B, [T,] C, H, W), target (B,) int64) -> (B, [T,] H, W) float32, detached."""


class AttributionError(ValueError):
    """The model has no layer that a method needs. The message names a method that serves it."""


# ---------------------------------------------------------------------------------------------- from the input


def input_gradient(
    model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor, *, smoothing: float = 0.0
) -> torch.Tensor:
    """Norm over the channels of the gradient of the target's logit.

    Args:
        smoothing (`float`, *optional*, defaults to 0.0): Standard deviation of a Gaussian over the map, as a share of
            the input's shorter side; a raw gradient is too grainy for a box (0.05 is a good start).
    """
    with evaluating(model):
        pixels = pixel_values.detach().clone().requires_grad_()
        gradient = Saliency(_logits_of(model)).attribute(pixels, target=target, abs=False)
    return _blurred(_norm(gradient), smoothing)


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
    """SmoothGrad: norm of the gradient averaged over noisy copies of the input.

    Args:
        samples (`int`): Noisy copies, one backward pass each.
        noise (`float`): Standard deviation of the noise, as a share of the batch's range of values (the paper's).
        smoothing (`float`): As in [`input_gradient`].
        seed (`int`): Of the noise; global random state is left alone.
    """
    spread = float(pixel_values.max() - pixel_values.min())
    devices = [pixel_values.device] if pixel_values.device.type == "cuda" else []
    with evaluating(model), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        gradient = NoiseTunnel(Saliency(_logits_of(model))).attribute(
            pixel_values.detach().clone().requires_grad_(),
            target=target,
            abs=False,
            nt_type="smoothgrad",
            nt_samples=samples,
            nt_samples_batch_size=1,
            stdevs=noise * spread,
        )
    return _blurred(_norm(gradient), smoothing)


def _norm(gradient: torch.Tensor) -> torch.Tensor:
    """(B, [T,] C, H, W) to (B, [T,] H, W)."""
    return gradient.detach().float().norm(dim=-3)


def _blurred(maps: torch.Tensor, smoothing: float) -> torch.Tensor:
    if smoothing <= 0:
        return maps
    sigma = smoothing * min(maps.shape[-2:])
    width = 2 * min(int(3 * sigma + 0.5), min(maps.shape[-2:]) - 1) + 1  # reflection needs less than the side
    return vision.gaussian_blur(maps.flatten(0, -3)[:, None], [width, width], [sigma, sigma])[:, 0].view_as(maps)


def blurred_over_time(maps: torch.Tensor, smoothing: float) -> torch.Tensor:
    """A Gaussian over the frames of each clip, (B, T, H, W) to the same; its weights sum to 1 at the ends too.

    Args:
        smoothing (`float`): Standard deviation, as a share of T: at 1 nearly the clip's mean map, 0 changes nothing.
    """
    if smoothing <= 0:
        return maps
    frames = torch.arange(maps.shape[1], dtype=maps.dtype, device=maps.device)
    weights = torch.exp(-(((frames[:, None] - frames) / (smoothing * len(frames))) ** 2) / 2)
    return torch.einsum("st,bthw->bshw", weights / weights.sum(1, keepdim=True), maps)


# ---------------------------------------------------------------------------------------------- from the features


@dataclass
class SpatialFeatures:
    """The last spatial layer of a forward pass.

    activations, gradients: (B, D, [T',] h, w) float32, the gradient being that of the target's logit.
    head: what lies between the pooled features and the logits, see [`cam`].
    """

    activations: torch.Tensor
    gradients: torch.Tensor
    head: list[tuple[nn.Module, torch.Tensor]]
    layer: str


def spatial_features(model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor) -> SpatialFeatures:
    """Finds the last layer whose output has a place for every part of the input and receives the logit's gradient.

    Convolutional outputs (B, D, h, w) and (B, h, w, D) of any module count, and the tokens (B, N, D) of layer norms. A
    head on the class token alone sends no gradient back to the patches of the last block's output; there it is the norm
    before the last attention that counts, which is what Grad-CAM on transformers uses.

    Raises:
        AttributionError: If there is none.
    """
    seen: list[tuple[str, nn.Module, torch.Tensor, torch.Tensor | None]] = []

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.requires_grad:
                first = inputs[0] if inputs and isinstance(inputs[0], torch.Tensor) else None
                seen.append((name, module, output, first))

        return hook

    with evaluating(model):
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
        grid = _token_grid(output.shape[1], pixels, model)
        if grid is not None:
            count = torch.Size(grid).numel()
            return lambda tensor: tensor[:, -count:].transpose(1, 2).unflatten(2, grid)  # class tokens come first
    return None


def _token_grid(tokens: int, pixels: torch.Tensor, model: nn.Module) -> tuple[int, ...] | None:
    """([T',] h, w) of the patch tokens, from the model's patch size, or from the number of tokens alone."""
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


def cam(model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Class activation map: the features of each place times the target's weights in the last linear layer.

    A layer norm between pooling and that layer (ConvNeXt) is taken as linear, its statistics held fixed, so that the
    mean of the map over the places is the logit up to a constant.

    Raises:
        AttributionError: If the head is not pooling, at most a layer norm, and one linear layer.
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
    """Grad-CAM: the features weighted by their gradient's mean over the places, negative evidence cut off."""
    features = spatial_features(model, pixel_values, target)
    weights = features.gradients.flatten(2).mean(2)
    weights = weights.view(*weights.shape, *(1,) * (features.activations.ndim - 2))
    return _enlarged((weights * features.activations).sum(1).clamp(min=0), pixel_values)


def guided_grad_cam(
    model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor, *, smoothing: float = 0.0
) -> torch.Tensor:
    """Grad-CAM times the norm of the guided input gradient, blurred as in [`input_gradient`].

    Guided backpropagation lets only positive gradients through each activation. captum's knows ReLU alone; here every
    elementwise activation counts (ReLU6, GELU, SiLU, ...).
    """
    handles = [
        module.register_full_backward_hook(_positive) for module in model.modules() if isinstance(module, _ACTIVATIONS)
    ]
    try:
        with evaluating(model), _not_in_place(model):
            pixels = pixel_values.detach().clone().requires_grad_()
            logits = model(pixel_values=pixels).logits
            guided = torch.autograd.grad(logits.float().gather(1, target[:, None]).sum(), pixels)[0]
    finally:
        for handle in handles:
            handle.remove()
    return grad_cam(model, pixel_values, target) * _blurred(_norm(guided), smoothing)


def _positive(module: nn.Module, grad_input: Any, grad_output: Any) -> tuple[torch.Tensor, ...]:
    return (grad_input[0].clamp(min=0),)


def _activation_classes() -> tuple[type[nn.Module], ...]:
    def modules(namespace: Any) -> list[type[nn.Module]]:
        return [v for v in vars(namespace).values() if isinstance(v, type) and issubclass(v, nn.Module)]

    own = [c for space in (torch.nn.modules.activation, hf_activations, timm_activations) for c in modules(space)]
    excluded = (nn.MultiheadAttention, nn.Softmax, nn.Softmin, nn.LogSoftmax, nn.Softmax2d, nn.GLU)
    return tuple(c for c in dict.fromkeys(own) if c is not nn.Module and not issubclass(c, excluded))


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
    """Attention, averaged over heads and mixed half and half with the identity, multiplied through the layers.

    What the class token (without one: the mean token) gathers from each patch. It does not depend on `target`.

    Raises:
        AttributionError: If the layers give no attention weights, or not over the whole input (windows).
    """
    with evaluating(model), torch.no_grad():
        weights = _attentions(model, pixel_values)
    if len({weight.shape for weight in weights}) != 1 or len(weights[0]) != len(pixel_values):
        raise AttributionError(f"no attention over the whole input in {type(model).__name__}: use `grad_cam`")
    total = torch.eye(weights[0].shape[-1], device=pixel_values.device).expand(len(pixel_values), -1, -1)
    for attention in weights:
        mixed = attention.float().mean(1) / 2 + torch.eye(attention.shape[-1], device=pixel_values.device) / 2
        total = mixed @ total
    tokens = total.shape[-1]
    grid = _token_grid(tokens, pixel_values, model)
    if grid is None:
        raise AttributionError(f"{tokens} tokens form no grid of the input's shape: use `grad_cam`")
    count = torch.Size(grid).numel()
    gathered = total[:, 0, -count:] if tokens > count else total.mean(1)
    return _enlarged(gathered.unflatten(1, grid), pixel_values)


def _attentions(model: Any, pixel_values: torch.Tensor) -> list[torch.Tensor]:
    """(B, heads, N, N) of each layer, first to last; square ones only."""
    found: list[torch.Tensor] = []
    timm_blocks: list[Any] = [module for module in model.modules() if getattr(module, "fused_attn", None) is not None]
    if timm_blocks:
        fused = [module.fused_attn for module in timm_blocks]
        handles = [
            module.attn_drop.register_forward_hook(lambda _, __, output: found.append(output)) for module in timm_blocks
        ]
        for module in timm_blocks:
            module.fused_attn = False
        try:
            model(pixel_values=pixel_values)
        finally:
            for module, was, handle in zip(timm_blocks, fused, handles, strict=True):
                module.fused_attn = was
                handle.remove()
    elif hasattr(model, "set_attn_implementation") and not hasattr(model, "timm_model"):
        before = model.config._attn_implementation
        model.set_attn_implementation("eager")  # the fused kernels never form the weights
        try:
            found = list(getattr(model(pixel_values=pixel_values, output_attentions=True), "attentions", None) or [])
        finally:
            model.set_attn_implementation(before)
    return [weights for weights in found if weights.ndim == 4 and weights.shape[-1] == weights.shape[-2]]


# ---------------------------------------------------------------------------------------------- shared


def center_gaussian(
    model: nn.Module, pixel_values: torch.Tensor, target: torch.Tensor, *, spread: float = 0.25
) -> torch.Tensor:
    """A Gaussian in the middle of every image: what a map must beat to locate anything (Choe et al., CVPR 2020).

    It looks at neither image nor model, and is no name in [`METHODS`].

    Args:
        spread (`float`, *optional*, defaults to 0.25): Standard deviation, as a share of height and of width.
    """
    height, width = pixel_values.shape[-2:]
    y, x = (((torch.arange(n, device=pixel_values.device) + 0.5) / n - 0.5) / spread for n in (height, width))
    bump = torch.exp(-(y[:, None] ** 2 + x**2) / 2)
    return bump.expand(*pixel_values.shape[:-3], height, width).clone()


METHODS: dict[str, Method] = {
    "cam": cam,
    "grad_cam": grad_cam,
    "guided_grad_cam": guided_grad_cam,
    "input_gradient": input_gradient,
    "smooth_gradient": smooth_gradient,
    "attention_rollout": attention_rollout,
}


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, with gradients on."""
    with evaluation_mode(model), torch.enable_grad():
        yield


def _logits_of(model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda pixels: model(pixel_values=pixels).logits.float()


def _enlarged(maps: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """(B, [T',] h, w) to the input's (B, [T,] H, W), bilinear (trilinear over a clip)."""
    size = list(pixels.shape[-2:]) if pixels.ndim == 4 else [pixels.shape[1], *pixels.shape[-2:]]
    mode = "bilinear" if pixels.ndim == 4 else "trilinear"
    return F.interpolate(maps[:, None], size=size, mode=mode, align_corners=False)[:, 0].detach()
