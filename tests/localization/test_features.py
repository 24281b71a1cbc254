"""A layer's map belongs to the image: for every family that the documentation names it lies on the patch that the model
sees, alone and in a batch; what does not depend on the image, on its row or on its places is no map."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers
from torch import nn
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification
from transformers.modeling_outputs import ImageClassifierOutput

from hf_pgg.guidance.modes import second_derivatives
from hf_pgg.localization.attribution import attention_rollout, cam, grad_cam, smooth_gradient
from hf_pgg.localization.features import AttributionError, _recorded, spatial_features

SIDE, FRAMES = 128, 4
PLAIN = {"num_hidden_layers": 3, "num_attention_heads": 2, "hidden_size": 24, "image_size": SIDE, "patch_size": 16}
TOKENS = {**PLAIN, "intermediate_size": 48}
RELATIVE = {**TOKENS, "use_mean_pooling": True, "use_relative_position_bias": True, "layer_scale_init_value": 1.0}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
PYRAMID = {**STAGES, "num_attention_heads": [1, 2, 2, 2], "mlp_ratios": [2, 2, 2, 2]}
WINDOWS = {
    "image_size": SIDE,
    "patch_size": 4,
    "embed_dim": 12,
    "depths": [2, 2],
    "num_heads": [2, 2],
    "window_size": 4,
}
CLIPS = {**TOKENS, "num_frames": FRAMES}

FAMILIES: dict[str, dict[str, object]] = {
    "ViT": TOKENS,
    "DeiT": TOKENS,
    "Beit": RELATIVE,
    "Data2VecVision": RELATIVE,
    "Dinov2": {**PLAIN, "mlp_ratio": 2},
    "Dinov2WithRegisters": {**PLAIN, "mlp_ratio": 2},
    "ConvNext": {**STAGES, "layer_scale_init_value": 1.0},
    "ConvNextV2": STAGES,
    "ResNet": {**STAGES, "embedding_size": 8, "layer_type": "basic"},
    "RegNet": {**STAGES, "embedding_size": 8, "groups_width": 4},
    "Swin": WINDOWS,
    "Swinv2": WINDOWS,
    "Pvt": {**PYRAMID, "image_size": SIDE},
    "PvtV2": {**PYRAMID, "image_size": SIDE},
    "Segformer": PYRAMID,
    "PoolFormer": {**STAGES, "layer_scale_init_value": 1.0},
    "MobileNetV2": {"depth_multiplier": 0.35, "image_size": SIDE},
    "FocalNet": {"embed_dim": 12, "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3]},
}  # fmt: skip
TIMM: dict[str, dict[str, object]] = {
    "resnet10t": {},
    "mobilenetv2_035": {},
    "vit_tiny_patch16_224": {"img_size": SIDE, "depth": 2, "embed_dim": 24, "num_heads": 2},
    "vit_base_patch16_siglip_224": {"img_size": SIDE, "depth": 2, "embed_dim": 24, "num_heads": 2},
    "swin_tiny_patch4_window7_224": {"img_size": SIDE, "embed_dim": 12, "depths": (2, 2), "num_heads": (2, 2),
                                     "window_size": 4},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 24)},
    "davit_tiny": {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)},
    "hiera_tiny_224": {"img_size": (SIDE, SIDE), "embed_dim": 16, "stages": (1, 1, 1, 1)},
    "tiny_vit_5m_224": {"embed_dims": (16, 16, 32, 32), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)},
    "pvt_v2_b0": {"depths": (1, 1, 1, 1), "embed_dims": (8, 16, 24, 32), "num_heads": (1, 2, 2, 2)},
}  # fmt: skip
VIDEO: dict[str, dict[str, object]] = {
    "VideoMAE": {**CLIPS, "tubelet_size": 2},
    "Timesformer": {**CLIPS, "attention_type": "divided_space_time"},
    "Timesformer joint": {**CLIPS, "attention_type": "joint_space_time"},
}


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name in TIMM:
        config = TimmWrapperConfig(architecture=name, num_labels=3, model_args=TIMM[name])
        model: nn.Module = TimmWrapperForImageClassification(config)
    else:
        family, options = name.split()[0], FAMILIES.get(name) or VIDEO[name]
        kind = "Video" if name in VIDEO else "Image"
        config = getattr(transformers, f"{family}Config")(num_labels=3, **options)
        model = getattr(transformers, f"{family}For{kind}Classification")(config)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d)]
    for module in norms:
        module.momentum = None  # the mean of all passes
    with torch.no_grad():  # running statistics of real passes: at initialisation they describe no data
        for _ in range(3 if norms else 0):
            side = 224 if name.startswith("tiny_vit") else SIDE
            model.train()(pixel_values=torch.randn(4, 3, side, side))
    return model.eval()


def scenes(side: int, is_clip: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Two scenes with a coloured patch on a faint background, up right and down left, and their masks (2, T, H, W).

    In clips the patch is there in the first half of one, and in the second half of the other.
    """
    generator = torch.Generator().manual_seed(0)
    frames, half = (FRAMES, FRAMES // 2) if is_clip else (1, 1)
    masks = torch.zeros(2, frames, side, side)
    low, high = slice(side // 16, 7 * side // 16), slice(9 * side // 16, 15 * side // 16)
    masks[0, :half, low, high] = 1
    masks[1, -half:, high, low] = 1
    colour = torch.tensor([2.0, -2.0, 1.0])[:, None, None]
    clips = 0.1 * torch.randn(1, 1, 3, side, side, generator=generator) + colour * masks[:, :, None]
    return (clips if is_clip else clips[:, 0]), masks


def see_patch(model: nn.Module, image: torch.Tensor, patch: torch.Tensor) -> None:
    """Makes class 0 of the head see what is at the patch: moving the layer's features towards it raises its logit.

    The logit is v . h with h the head's input. Where J is the derivative of h by the features, the mean gradient over
    the places is J^T v; with v = J d, and d what the patch has beyond its surroundings, it points along d.
    """
    features = spatial_features(model, image, torch.zeros(1, dtype=torch.int64))
    size = features.activations.shape[2:]
    inside = nn.functional.adaptive_avg_pool3d(patch[None, None], (1,) * (3 - len(size)) + tuple(size)).flatten() > 0.5
    places = features.activations[0].flatten(1)
    added = places[:, inside].mean(1) - places[:, ~inside].mean(1)
    head = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == 3][-1]
    with second_derivatives():
        _, calls = _recorded(model, image.clone().requires_grad_())
        given = next(call.first for call in reversed(calls) if call.module is head)
        output = next(call.output for call in reversed(calls) if call.name == features.layer)
        probe = torch.zeros_like(given, requires_grad=True)
        (gradient,) = torch.autograd.grad(given, output, probe, create_graph=True)
        along = features.layout(gradient)[0].flatten(1).mean(1) @ added
        (weight,) = torch.autograd.grad(along, probe)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[0] = weight[0]
        head.bias.zero_()


def lies_on(score_map: torch.Tensor, row: int, is_clip: bool) -> bool:
    """Whether the map's centre of mass above its median is in the patch's quarter, and in its half of the clip."""
    mass = (score_map - score_map.median()).clamp(min=0)
    axes = [torch.linspace(-1, 1, size) for size in mass.shape]
    centre = [
        float((mass * axis.view([-1 if d == k else 1 for d in range(mass.ndim)])).sum() / mass.sum())
        for k, axis in enumerate(axes)
    ]
    expected = [-1, -1, 1] if is_clip else [-1, 1]
    sign = 1 if row == 0 else -1
    return all(sign * place * want > 0 for place, want in zip(centre, expected, strict=True))


@pytest.mark.parametrize("name", [*FAMILIES, *TIMM, *VIDEO])
def test_the_map_lies_on_the_patch_alone_and_in_a_batch(name: str) -> None:
    model, is_clip = model_of(name), name in VIDEO
    with_patch, patches = scenes(224 if name.startswith("tiny_vit") else SIDE, is_clip)
    target = torch.zeros(2, dtype=torch.int64)
    for row in range(2):
        see_patch(model, with_patch[row : row + 1], patches[row])
        together = grad_cam(model, with_patch, target)
        alone = grad_cam(model, with_patch[row : row + 1], target[:1])[0]
        assert lies_on(alone, row, is_clip), row
        torch.testing.assert_close(together[row], alone, rtol=1e-3, atol=1e-4 * float(alone.max()))


@pytest.mark.parametrize("name", ["Swin", "Swinv2"])
def test_models_with_windows_get_a_map_of_every_size_that_they_take(name: str) -> None:
    model = model_of(name)
    for size in ((64, 64), (48, 80), (100, 128)):
        features = spatial_features(model, torch.randn(2, 3, *size), torch.tensor([0, 1]))
        assert features.layer == f"{name.lower()}.layernorm"
        height, width = features.activations.shape[2:]
        assert abs(height / width - size[0] / size[1]) < 0.1


@pytest.mark.parametrize("name", ["Swin", "Swinv2", "ConvNext", "resnet10t", "swin_tiny_patch4_window7_224"])
def test_cam_averages_to_the_logit_where_the_head_is_pooling_and_one_layer(name: str) -> None:
    model, pixels, target = model_of(name), torch.randn(2, 3, SIDE, SIDE), torch.tensor([0, 2])
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    nn.init.zeros_(head.bias)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.zeros_(module.bias)
    size = spatial_features(model, pixels, target).activations.shape[-1]
    maps = cam(model, pixels, target)
    step = SIDE // size
    places = maps[:, step // 2 :: step, step // 2 :: step] if step > 1 else maps
    logits = model(pixel_values=pixels).logits[[0, 1], target]
    assert torch.corrcoef(torch.stack([maps.mean((1, 2)), logits.detach()]))[0, 1] > 0.99 and places.std() > 0


class Wrapped(nn.Module):
    """A network of two convolutions, behind a layer that is no map though it has the shape of one."""

    def __init__(self, after: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.GELU(), nn.Conv2d(8, 8, 1))
        self.trap = nn.Identity()
        self.after = after
        self.table = nn.Parameter(torch.randn(2, 8, 8, 8))
        self.classifier = nn.Linear(8, 3)

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        features = self.features(pixel_values)
        added = self.trap(self.after(self, features))  # type: ignore[call-arg]
        return ImageClassifierOutput(logits=self.classifier((features + added.sum() * 0 + added.mean()).mean((2, 3))))


TRAPS = {
    "a table of the shape of a map": lambda model, features: model.table[: len(features)],
    "a mix of the rows": lambda model, features: features.roll(1, 0) if len(features) > 1 else features.flip(0),
    "upside down": lambda model, features: features.flip(2),
    "transposed": lambda model, features: features.transpose(2, 3),
    "attention of places to places": lambda model, features: (
        (features.flatten(2)[:, :, :8].transpose(1, 2) @ features.flatten(2)[:, :, :8])
        .softmax(2)[:, None]
        .expand(-1, 8, -1, -1)
    ),
    "shuffled places": lambda model, features: features.flatten(2)[
        :, :, torch.randperm(64, generator=torch.Generator().manual_seed(0))
    ].unflatten(2, (8, 8)),
}


@pytest.mark.parametrize("name", TRAPS)
def test_what_is_not_shown_to_be_a_map_of_the_image_is_passed_over(name: str) -> None:
    for rows in (2, 1):
        model = Wrapped(TRAPS[name])
        layer = spatial_features(model, torch.randn(rows, 3, SIDE, SIDE), torch.zeros(rows, dtype=torch.int64)).layer
        # with one row alone there is no other row to be mixed with
        assert layer == "features" or (name == "a mix of the rows" and rows == 1)


@pytest.mark.parametrize(
    "name",
    ["Data2VecVision", "Swin", "Swinv2", "Pvt", "PvtV2", "Segformer", "ConvNext", "Timesformer", "hiera_tiny_224",
     "tiny_vit_5m_224", "davit_tiny", "vit_base_patch16_siglip_224", "pvt_v2_b0", "swin_tiny_patch4_window7_224"],
)  # fmt: skip
def test_rollout_says_that_a_model_has_no_attention_over_the_whole_input(name: str) -> None:
    pixels, _ = scenes(224 if name.startswith("tiny_vit") else SIDE, name in VIDEO)
    with pytest.raises(AttributionError, match="gives no attention over the whole input: use `grad_cam`"):
        attention_rollout(model_of(name), pixels, torch.tensor([0, 1]))


@pytest.mark.parametrize("name", ["VideoMAE", "Timesformer joint"])
def test_rollout_of_a_clip_stands_in_the_models_own_order_of_tokens(name: str) -> None:
    model = model_of(name)
    maps = attention_rollout(model, torch.randn(2, FRAMES, 3, SIDE, SIDE), torch.tensor([0, 1]))
    assert maps.shape == (2, FRAMES, SIDE, SIDE) and maps.isfinite().all() and maps.std() > 0


def test_smooth_gradient_does_not_depend_on_the_neighbours() -> None:
    model, pixels = model_of("ResNet"), torch.randn(3, 3, SIDE, SIDE)
    pixels[2] *= 50  # a batch's range would be this row's
    target = torch.tensor([0, 1, 2])
    together = smooth_gradient(model, pixels, target, samples=4)
    for row in range(3):
        alone = smooth_gradient(model, pixels[row : row + 1], target[row : row + 1], samples=4)[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-3, atol=1e-4 * float(alone.max()))
