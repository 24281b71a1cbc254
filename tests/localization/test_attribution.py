"""Attribution maps: every family, without naming layers; against closed forms and against captum."""

from __future__ import annotations

import math

import pytest
import torch
from captum.attr import GuidedBackprop, LayerGradCam
from torch import nn
from torch.nn import functional as F
from transformers import (
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
)
from transformers.modeling_outputs import ImageClassifierOutput

from hf_pgg.localization.attribution import (
    METHODS,
    attention_rollout,
    blurred_over_time,
    cam,
    center_gaussian,
    grad_cam,
    guided_grad_cam,
    input_gradient_map,
    smooth_gradient,
)
from hf_pgg.localization.features import AttributionError, spatial_features
from tests.conftest import tiny_model

SIDE = 64


class SmallNetwork(nn.Module):
    """Convolutions, pooling, one linear layer."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1), activation(), nn.Conv2d(6, 8, 3, 2, 1), nn.Identity(), activation()
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(8, 3)

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        return ImageClassifierOutput(logits=self.classifier(self.pool(self.features(pixel_values)).flatten(1)))


def small_network(activation: type[nn.Module] = nn.ReLU) -> SmallNetwork:
    torch.manual_seed(0)
    return SmallNetwork(activation)


def timm_model(architecture: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    config = TimmWrapperConfig(architecture=architecture, num_labels=3, model_args=options)
    return TimmWrapperForImageClassification(config)


def model_of(family: str) -> nn.Module:
    if family == "timm_vit":
        return timm_model("vit_tiny_patch16_224", img_size=SIDE, depth=2, embed_dim=24, num_heads=2)
    if family == "timm_mobilenet":
        model = timm_model("mobilenetv2_035")
        with torch.no_grad():  # running statistics of real passes: at initialisation they describe no data
            for _ in range(20):
                model.train()(pixel_values=torch.randn(8, 3, SIDE, SIDE))
        return model
    return tiny_model(family)


def pixels(side: int = SIDE, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


TARGET = torch.tensor([0, 2])
SERVED = {
    "vit": {"grad_cam", "guided_grad_cam", "input_gradient", "smooth_gradient", "attention_rollout"},
    "timm_vit": {"grad_cam", "guided_grad_cam", "input_gradient", "smooth_gradient", "attention_rollout"},
    "convnext": {"cam", "grad_cam", "guided_grad_cam", "input_gradient", "smooth_gradient"},
    "timm": {"cam", "grad_cam", "guided_grad_cam", "input_gradient", "smooth_gradient"},
    "timm_mobilenet": {"cam", "grad_cam", "guided_grad_cam", "input_gradient", "smooth_gradient"},
}


class Linear(nn.Module):
    """A classifier without a layer that keeps the image's shape; its gradient is its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 3)

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        return ImageClassifierOutput(logits=self.layer(pixel_values.flatten(1)))


@pytest.mark.parametrize("family", SERVED)
def test_every_method_serves_the_families_it_can_and_names_a_remedy_for_the_others(family: str) -> None:
    model, batch = model_of(family).train(), pixels(32 if family == "vit" else SIDE)
    for name, method in METHODS.items():
        if name in SERVED[family]:
            maps = method(model, batch, TARGET)
            assert maps.shape == (2, *batch.shape[-2:]) and maps.dtype == torch.float32 and not maps.requires_grad
            assert maps.isfinite().all() and maps[0].std() > 0
        else:
            with pytest.raises(AttributionError, match="use `grad_cam`"):
                method(model, batch, TARGET)
    assert model.training, "the training flag is restored"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_cam_averages_to_the_logit() -> None:
    model = small_network()
    maps = spatial_features(model, pixels(), TARGET).activations
    places = torch.einsum("bd,bdhw->bhw", model.classifier.weight[TARGET], maps)
    logits = model(pixels()).logits[torch.arange(2), TARGET]
    torch.testing.assert_close(places.mean((1, 2)) + model.classifier.bias[TARGET], logits)
    expected = F.interpolate(places[:, None], (SIDE, SIDE), mode="bilinear")[:, 0]
    torch.testing.assert_close(cam(model, pixels(), TARGET), expected.detach())


def test_cam_through_a_layer_norm_averages_to_the_logit() -> None:
    model = tiny_model("convnext").eval()
    nn.init.normal_(model.convnext.layernorm.weight)
    model.classifier.bias.data.zero_()
    maps = cam(model, pixels(), TARGET)
    places = maps[:, [0, 0, -1, -1], [0, -1, 0, -1]]  # 2 x 2 places: bilinear enlargement keeps them at the corners
    logits = model(pixel_values=pixels()).logits[torch.arange(2), TARGET]
    torch.testing.assert_close(places.mean(1), logits.detach())


def test_grad_cam_on_pooling_and_a_linear_layer_is_the_positive_part_of_cam() -> None:
    model = small_network()
    features = spatial_features(model, pixels(), TARGET)
    count = features.activations[0, 0].numel()
    places = torch.einsum("bd,bdhw->bhw", model.classifier.weight[TARGET], features.activations).clamp(min=0) / count
    expected = F.interpolate(places[:, None], (SIDE, SIDE), mode="bilinear")[:, 0]
    torch.testing.assert_close(grad_cam(model, pixels(), TARGET), expected.detach())


def test_grad_cam_is_captums() -> None:
    model = small_network()
    layer = LayerGradCam(lambda batch: model(batch).logits, model.features[4])
    theirs = layer.attribute(pixels(), target=TARGET, relu_attributions=True)
    expected = F.interpolate(theirs, (SIDE, SIDE), mode="bilinear")[:, 0]
    torch.testing.assert_close(grad_cam(model, pixels(), TARGET), expected.detach())


def test_guided_backpropagation_is_captums_where_that_exists() -> None:
    model = small_network()

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return self.inner(batch).logits

    theirs = GuidedBackprop(Logits()).attribute(pixels().requires_grad_(), target=TARGET).norm(dim=1)
    expected = grad_cam(model, pixels(), TARGET) * theirs.detach()
    torch.testing.assert_close(guided_grad_cam(model, pixels(), TARGET), expected)


@pytest.mark.parametrize("activation", [nn.ReLU6, nn.GELU, nn.SiLU])
def test_guided_backpropagation_takes_other_activations_and_overwriting_ones(activation: type[nn.Module]) -> None:
    model = small_network(activation)
    if hasattr(model.features[1], "inplace"):
        model.features[1].inplace = True
    guided = guided_grad_cam(model, pixels(), TARGET)
    assert guided.isfinite().all()
    plain = grad_cam(model, pixels(), TARGET) * input_gradient_map(model, pixels(), TARGET)
    assert not torch.allclose(guided, plain)
    assert getattr(model.features[1], "inplace", True), "restored"


def test_the_input_gradient_of_a_linear_model_is_its_weights() -> None:
    model = Linear()
    expected = model.layer.weight[TARGET].detach().view(2, 3, 8, 8).norm(dim=1)
    torch.testing.assert_close(input_gradient_map(model, pixels(8), TARGET), expected)
    torch.testing.assert_close(smooth_gradient(model, pixels(8), TARGET, samples=3), expected)
    blurred = input_gradient_map(model, pixels(8), TARGET, smoothing=0.2)
    assert blurred.std() < expected.std() and blurred.shape == expected.shape


def test_smooth_gradient_depends_on_its_seed_alone() -> None:
    model = small_network()
    torch.manual_seed(5)
    first = smooth_gradient(model, pixels(), TARGET, samples=2)
    draw = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), draw), "global random state is left alone"
    assert torch.equal(smooth_gradient(model, pixels(), TARGET, samples=2), first)
    assert not torch.equal(smooth_gradient(model, pixels(), TARGET, samples=2, seed=1), first)


@pytest.mark.parametrize("family", ["vit", "timm_vit"])
def test_attention_rollout_is_a_distribution_of_the_class_tokens_attention(family: str) -> None:
    model, batch = model_of(family).eval(), pixels(32 if family == "vit" else SIDE)
    before = model(pixel_values=batch).logits
    maps = attention_rollout(model, batch, TARGET)
    assert (maps > 0).all() and maps.flatten(1).mean(1).max() < 1 / 16 + 1e-3
    assert torch.equal(attention_rollout(model, batch, TARGET.flip(0)), maps), "the class plays no part"
    torch.testing.assert_close(model(pixel_values=batch).logits, before)


def test_a_model_without_places_is_refused_by_the_maps_that_need_them() -> None:
    with pytest.raises(AttributionError, match="use `input_gradient`"):
        grad_cam(Linear(), pixels(8), TARGET)


def test_clips_get_a_map_a_frame() -> None:
    config = VideoMAEConfig(
        image_size=32,
        patch_size=8,
        num_frames=4,
        tubelet_size=2,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        num_labels=3,
    )
    model, clip = VideoMAEForVideoClassification(config), torch.randn(2, 4, 3, 32, 32)
    for name in ("grad_cam", "guided_grad_cam", "input_gradient", "smooth_gradient", "attention_rollout"):
        assert METHODS[name](model, clip, TARGET).shape == (2, 4, 32, 32), name
    features = spatial_features(model, clip, TARGET)
    assert features.activations.shape == (2, 24, 2, 4, 4), "tubelets of two frames, patches of eight pixels"


def test_the_central_baseline_is_one_bump_whatever_image_and_model() -> None:
    maps = center_gaussian(nn.Identity(), torch.rand(2, 3, 9, 21), TARGET)
    assert maps.shape == (2, 9, 21) and torch.equal(maps[0], maps[1])
    assert maps[0].argmax() == 4 * 21 + 10 and maps[0, 4, 10] == pytest.approx(1)
    assert torch.allclose(maps[0], maps[0].flip(0)) and torch.allclose(maps[0], maps[0].flip(1))
    # one standard deviation is a quarter of each side, however long
    assert center_gaussian(nn.Identity(), torch.rand(1, 4, 3, 16, 32), TARGET)[0, 2].log().min() == pytest.approx(
        -((7.5 / 4) ** 2 + (15.5 / 8) ** 2) / 2, rel=1e-5
    )


def test_a_blur_over_time_averages_the_frames_of_each_clip() -> None:
    still, moving = torch.rand(1, 1, 3, 3).expand(1, 6, 3, 3), torch.rand(1, 6, 3, 3)
    assert torch.allclose(blurred_over_time(still, 0.5), still)
    assert blurred_over_time(moving, 0) is moving
    assert torch.allclose(blurred_over_time(moving, 100.0), moving.mean(1, keepdim=True).expand_as(moving), atol=1e-3)
    spike = torch.zeros(2, 5, 1, 1)
    spike[0, 2] = 1
    # two frames away at a standard deviation of 0.4 x 5 = 2 frames, over the sum of the weights of all five
    near = [math.exp(-(((t - 2) / 2) ** 2) / 2) for t in range(5)]
    blurred = blurred_over_time(spike, 0.4)
    assert blurred[0, 2].item() == pytest.approx(1 / sum(near)) and not blurred[1].any()
    ends = sum(math.exp(-((t / 2) ** 2) / 2) for t in range(5))
    assert blurred[0, 0].item() == pytest.approx(near[0] / ends)
