"""L_PG against the paper's formula, a closed form, finite differences in float64, and the two engines together."""

import pytest
import torch
from torch import nn

from hf_pgg.data.provenance import merge_sources
from hf_pgg.guidance.engines import exact_guidance, first_order_guidance
from hf_pgg.guidance.forms import FORMS, Form, energy, l2, share
from hf_pgg.guidance.modes import RandomState, running_statistics, second_derivatives
from tests.conftest import FAMILIES, SIZE, tiny_model

BATCH, CLASSES = 4, 3


def sample(dtype=torch.float32, size=SIZE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(BATCH, 3, size, size, generator=generator, dtype=dtype)
    labels = torch.tensor([[0, 1], [2, 0], [1, -100], [2, 1]])
    first = torch.rand(BATCH, size, size, generator=generator, dtype=dtype).round()
    provenance = torch.stack([first, 1 - first], 1)
    provenance[2, 1] = 0
    guided = torch.tensor([True, True, True, False])
    return pixels.requires_grad_(), labels, provenance, guided


class Smooth(nn.Module):
    """A small smooth network in float64."""

    def __init__(self, size=6):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * size * size, CLASSES)
        ).double()

    def forward(self, pixels):
        return self.net(pixels)


def parameter_gradient(value, model):
    grads = torch.autograd.grad(value, list(model.parameters()), allow_unused=True, retain_graph=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(grads, model.parameters(), strict=True)]
    )


def engines(model, pixels, labels, provenance, guided, form, step=1e-3):
    """Exact and first-order guidance of the same pass."""
    forward = lambda x: model(pixel_values=x).logits if hasattr(model, "config") else model(x)  # noqa: E731
    with running_statistics(model), second_derivatives():
        state = RandomState(pixels.device)
        logits = forward(pixels)
        exact = exact_guidance(logits, pixels, labels, provenance, guided, form)
        first = first_order_guidance(
            forward, logits, pixels, labels, provenance, guided, form, random_state=state, step=step
        )
    return exact, first


def test_l2_is_the_papers_formula_for_two_labels_and_a_binary_mask():
    model, (pixels, labels, provenance, guided) = Smooth(), sample(torch.float64, 6)
    logits = model(pixels)
    loss = exact_guidance(logits, pixels, labels, provenance, guided, l2).loss
    for i in range(2):
        a, b = (torch.autograd.grad(logits[i, labels[i, k]], pixels, retain_graph=True)[0][i] for k in range(2))
        mask = provenance[i, 0]
        assert torch.allclose(loss[i].double(), (((1 - mask) * a + mask * b) ** 2).sum(), rtol=1e-5)


def test_a_fractional_mask_does_not_cancel():
    """Where M = 1/2 and g_A = -g_B the paper's sum is zero; the split form is not."""
    weight = torch.ones(1, 2)
    pixels = torch.ones(1, 1, 1, 2, requires_grad=True)
    logits = torch.cat([(pixels.flatten(1) * weight).sum(1), -(pixels.flatten(1) * weight).sum(1)])[None]
    half = torch.full((1, 2, 1, 2), 0.5)
    loss = exact_guidance(logits, pixels, torch.tensor([[0, 1]]), half, torch.tensor([True]), l2).loss
    assert loss.item() == pytest.approx(2 * 2 * 0.25)


@pytest.mark.parametrize("name", FORMS)
def test_a_linear_model_has_a_closed_form(name):
    torch.manual_seed(0)
    weight = torch.randn(CLASSES, 3, 6, 6)
    pixels, labels, provenance, guided = sample(size=6)
    logits = torch.einsum("bchw,kchw->bk", pixels, weight)
    loss = exact_guidance(logits, pixels, labels, provenance, guided, FORMS[name]).loss
    for i in range(BATCH):
        values = []
        for k in range(2):
            if labels[i, k] < 0:
                continue
            g, inside = weight[labels[i, k]], provenance[i, k]
            outside_energy = (((1 - inside) * g) ** 2).sum()
            attribution = (g * pixels[i].detach()).sum(0).clamp(min=0)
            values.append(
                {
                    "l2": outside_energy,
                    "l2_mean": outside_energy / g.numel(),
                    "share": outside_energy / (g**2).sum(),
                    "energy": 1 - (inside * attribution).sum() / attribution.sum(),
                }[name]
            )
        expected = sum(values) if name.startswith("l2") else sum(values) / len(values)
        assert loss[i].item() == pytest.approx(expected.item() if guided[i] else 0.0, rel=1e-5)


@pytest.mark.parametrize("name", FORMS)
def test_the_parameter_gradient_agrees_with_finite_differences_in_float64(name):
    """d L_PG / d theta along a random direction, for both engines."""
    model, batch = Smooth(), sample(torch.float64, 6)
    form = FORMS[name]
    exact, first = engines(model, *batch, form, step=1e-5)
    direction = [torch.randn_like(p) for p in model.parameters()]
    flat = torch.cat([d.flatten() for d in direction])
    analytic = parameter_gradient(exact.surrogate.sum(), model) @ flat
    first_order = parameter_gradient(first.surrogate.sum(), model) @ flat

    def loss_moved_by(step):
        with torch.no_grad():
            for p, d in zip(model.parameters(), direction, strict=True):
                p.add_(d, alpha=step)
        value = exact_guidance(model(batch[0]), *batch, form).loss.sum().item()
        with torch.no_grad():
            for p, d in zip(model.parameters(), direction, strict=True):
                p.sub_(d, alpha=step)
        return value

    numeric = (loss_moved_by(1e-6) - loss_moved_by(-1e-6)) / 2e-6
    assert analytic.item() == pytest.approx(numeric, rel=1e-5)
    assert first_order.item() == pytest.approx(numeric, rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", FORMS)
def test_first_order_agrees_with_exact(family, name):
    """Dropout on: both passes must draw the same masks; batch norm on: running statistics.

    In float64, where a step small enough to cross none of the max-pooling's kinks still has digits left.
    """
    model, batch = tiny_model(family).double().train(), sample(torch.float64)
    exact, first = engines(model, *batch, FORMS[name], step=1e-7)
    assert torch.allclose(exact.loss, first.loss, rtol=1e-6)
    assert torch.allclose(exact.target_share, first.target_share, rtol=1e-6)
    a = parameter_gradient(exact.surrogate.sum(), model)
    b = parameter_gradient(first.surrogate.sum(), model)
    assert torch.cosine_similarity(a, b, dim=0) > 0.9999
    assert (b.norm() / a.norm()).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("family", ["vit", "convnext"])
@pytest.mark.parametrize("name", FORMS)
def test_first_order_agrees_with_exact_in_float32_on_smooth_models(family, name):
    model, batch = tiny_model(family).train(), sample()
    exact, first = engines(model, *batch, FORMS[name])
    a, b = (parameter_gradient(guidance.surrogate.sum(), model) for guidance in (exact, first))
    assert torch.cosine_similarity(a, b, dim=0) > 0.99
    assert (b.norm() / a.norm()).item() == pytest.approx(1, abs=0.05)


def test_kinks_set_the_engines_apart_only_for_steps_that_cross_them():
    """ReLU in float64: with a step inside one linear region they agree; a usual step crosses into others."""
    model, batch = tiny_model("timm", activation="relu").double().train(), sample(torch.float64)
    for step, same in ((1e-7, True), (1e-3, False)):
        exact, first = engines(model, *batch, share, step=step)
        a, b = (parameter_gradient(guidance.surrogate.sum(), model) for guidance in (exact, first))
        assert (torch.cosine_similarity(a, b, dim=0) > 0.999) == same
        assert torch.allclose(exact.loss, first.loss)


def test_first_order_needs_no_second_derivative():
    """Fused attention has none: exact mode fails under it, first-order mode does not."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model, (pixels, labels, provenance, guided) = tiny_model("vit").eval(), sample()
    forward = lambda x: model(pixel_values=x).logits  # noqa: E731
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        logits = forward(pixels)
        first = first_order_guidance(
            forward, logits, pixels, labels, provenance, guided, random_state=RandomState(pixels.device)
        )
        first.surrogate.sum().backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="derivative"):
            exact_guidance(logits, pixels, labels, provenance, guided).surrogate.sum().backward()


def test_a_row_without_provenance_gives_exactly_zero():
    model, (pixels, labels, provenance, _) = tiny_model("convnext"), sample()
    nobody = torch.zeros(BATCH, dtype=torch.bool)
    for guidance in engines(model, pixels, labels, provenance, nobody, share):
        assert guidance.loss.tolist() == [0.0] * BATCH and guidance.surrogate.sum().item() == 0.0
    only_first = torch.tensor([True, False, False, False])
    exact, first = engines(model, pixels, labels, provenance, only_first, share)
    assert exact.loss[0] > 0 and exact.loss[1:].eq(0).all() and first.loss[1:].eq(0).all()


def test_same_class_mixing_gives_no_penalty_on_either_part():
    pixels, _, provenance, guided = sample()
    labels = torch.tensor([[1, 1]] * BATCH)
    labels, _, merged = merge_sources(labels, torch.full((BATCH, 2), 0.5), provenance)
    merged[2] = torch.tensor([1.0, 0.0])[:, None, None]
    exact, _ = engines(tiny_model("vit").eval(), pixels, labels, merged, guided, l2)
    assert exact.loss.tolist() == [0.0] * BATCH


def test_repeated_labels_are_refused():
    pixels, labels, provenance, guided = sample()
    logits = tiny_model("vit")(pixel_values=pixels).logits
    with pytest.raises(ValueError, match="merge_sources"):
        exact_guidance(logits, pixels, torch.ones_like(labels), provenance, guided)


def test_a_mask_of_another_size_is_refused():
    pixels, labels, provenance, guided = sample()
    logits = tiny_model("vit")(pixel_values=pixels).logits
    with pytest.raises(ValueError, match=r"provenance has shape \(4, 2, 8, 8\), expected \(4, 2, 32, 32\)"):
        exact_guidance(logits, pixels, labels, provenance[..., :8, :8], guided)


def test_energy_sums_the_channels_before_it_cuts_negative_evidence_off():
    """Red 3 and blue -2 at a pixel are evidence of 1, not of 3; elements with masks of their own stay apart."""
    gradient = torch.tensor([[[[3.0, 0.0]], [[-2.0, 1.0]]]])
    left = torch.tensor([[[[1.0, 0.0]]]])
    assert energy(gradient, left, torch.ones(1, 2, 1, 2)).item() == pytest.approx(1 / 2)
    assert energy(gradient, left.expand(1, 2, 1, 2), torch.ones(1, 2, 1, 2)).item() == pytest.approx(1 / 4)


def test_share_has_no_unit_and_energy_neither():
    gradient, inside, pixels = torch.randn(2, 3, 4, 4), torch.rand(2, 1, 4, 4).round(), torch.randn(2, 3, 4, 4)
    for form in (share, energy):
        assert torch.allclose(form(gradient, inside, pixels), form(1000 * gradient, inside, pixels))
    assert torch.allclose(l2(10 * gradient, inside, pixels), 100 * l2(gradient, inside, pixels))


def outside(gradient, inside, pixels):
    """The absolute gradient outside the target: a form of one's own."""
    return ((1 - inside) * gradient).abs().flatten(1).sum(1)


@pytest.mark.parametrize("over_labels", ["sum", "mean"])
def test_a_form_of_ones_own_says_how_a_samples_labels_add_up(over_labels):
    model, (pixels, labels, provenance, guided) = tiny_model("convnext").eval(), sample()
    form = Form("outside", outside, over_labels)
    exact, first = engines(model, pixels, labels, provenance, guided, form)
    logits = model(pixel_values=pixels).logits
    for i in range(BATCH):
        values = [
            outside(torch.autograd.grad(logits[i, label], pixels, retain_graph=True)[0], provenance[:, k, None], pixels)
            for k, label in enumerate(labels[i])
            if label >= 0
        ]
        expected = sum(value[i].item() for value in values) / (1 if over_labels == "sum" else len(values))
        assert exact.loss[i].item() == pytest.approx(expected if guided[i] else 0.0, rel=1e-4)
    assert torch.allclose(exact.loss, first.loss)


def test_a_plain_function_is_no_form_for_it_does_not_say():
    pixels, labels, provenance, guided = sample()
    logits = tiny_model("vit")(pixel_values=pixels).logits
    with pytest.raises(TypeError, match=r"give `Form\('my form', function, over_labels='mean'\)`"):
        exact_guidance(logits, pixels, labels, provenance, guided, outside)
    with pytest.raises(ValueError, match="over_labels of the form 'outside' is 'max'"):
        Form("outside", outside, over_labels="max")


def test_clips_need_nothing_of_their_own():
    """(B, T, C, H, W): the same engines, masks (B, K, T, H, W)."""
    torch.manual_seed(0)
    pixels = torch.randn(2, 4, 3, 6, 6, requires_grad=True)
    weight = torch.randn(CLASSES, 4, 3, 6, 6)
    logits = torch.einsum("btchw,ktchw->bk", pixels, weight)
    inside = torch.rand(2, 1, 4, 6, 6).round()
    labels = torch.tensor([[0], [2]])
    loss = exact_guidance(logits, pixels, labels, inside, torch.tensor([True, True]), l2).loss
    expected = [(((1 - inside[i, 0, :, None]) * weight[labels[i, 0]]) ** 2).sum() for i in range(2)]
    assert torch.allclose(loss, torch.stack(expected), rtol=1e-5)
