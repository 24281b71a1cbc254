"""One guided forward pass: sampling is unbiased, splitting changes nothing, precision and compilers are served."""

import pytest
import torch
from torch import nn

from hf_pgg.guidance.engines import exact_guidance
from hf_pgg.guidance.forms import Form, l2, share
from hf_pgg.guidance.forward import (
    GuidanceSettings,
    LoopState,
    _choose_labels,
    _choose_rows,
    default_step,
    guided_forward,
)
from hf_pgg.guidance.modes import has_kinks, running_statistics, second_derivatives
from tests.conftest import FAMILIES, tiny_model
from tests.guidance.test_engines import parameter_gradient, sample

FORMS = {"share": share, "l2": l2}
MODES = {"exact": True, "finite_difference": False}


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def guided(model, batch, settings, seed=0, **options):
    pixels, labels, provenance, rows = batch
    return guided_forward(
        model,
        model,
        {"pixel_values": pixels},
        labels,
        provenance,
        rows,
        settings,
        LoopState(torch.Generator().manual_seed(seed), **options),
    )


@pytest.mark.parametrize("exact", MODES.values(), ids=MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_split_into_guided_and_other_rows_gives_what_the_whole_gives(family, exact):
    model, batch = without_dropout(tiny_model(family).double()).eval(), sample(torch.float64)
    logits, guidance = guided(model, batch, GuidanceSettings(exact=exact, step=1e-7))
    with second_derivatives():
        expected = exact_guidance(model(pixel_values=batch[0]).logits, *batch)
    assert torch.allclose(logits, model(pixel_values=batch[0]).logits)
    assert torch.allclose(guidance.loss, expected.loss)
    assert guidance.measured.tolist() == batch[3].tolist()
    ours, theirs = (parameter_gradient(g.surrogate.sum(), model) for g in (guidance, expected))
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.9999


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("exact", MODES.values(), ids=MODES)
@pytest.mark.parametrize("family", ["convnext", "timm"])
def test_sampled_rows_and_labels_are_unbiased(family, exact, form):
    """The mean parameter gradient over draws is the full one's, within its sampling error; draws differ."""
    model, batch = tiny_model(family).double().eval(), sample(torch.float64)

    def gradient(seed, **sampling):
        _, guidance = guided(model, batch, GuidanceSettings(form=form, exact=exact, step=1e-6, **sampling), seed)
        return parameter_gradient(guidance.surrogate.sum(), model)

    full = gradient(0)
    draws = torch.stack([gradient(seed, one_label=True, fraction=0.5) for seed in range(60)])
    assert draws.std(0).max() > 0
    error = (draws.mean(0) - full).norm()
    sampling_error = draws.std(0).norm() / len(draws) ** 0.5
    assert error < 3 * sampling_error
    assert sampling_error < 0.5 * full.norm()


def test_row_sampling_draws_a_part_scaled_to_the_whole():
    rows = torch.tensor([True, False, True, True, True, False, True])
    drawn, factor = _choose_rows(rows, 0.4, LoopState(torch.Generator().manual_seed(0)))
    assert len(drawn) == 2 and factor == 2.5 and rows[drawn].all() and drawn.tolist() == sorted(drawn.tolist())
    assert _choose_rows(rows, 0.01, LoopState(torch.Generator()))[0].shape == (1,)
    assert _choose_rows(rows, 1.0, LoopState())[0].tolist() == [0, 2, 3, 4, 6]
    assert len(_choose_rows(torch.zeros(3, dtype=torch.bool), 0.5, LoopState())[0]) == 0


def test_label_sampling_scales_the_summed_forms_only():
    _, labels, provenance, _ = sample()
    own = Form("own", lambda gradient, inside, pixels: gradient.flatten(1).sum(1), over_labels="sum")
    for form, expected in ((l2, [2, 2, 1, 2]), (own, [2, 2, 1, 2]), (share, [1, 1, 1, 1])):
        chosen, masks, factor = _choose_labels(labels, provenance, form, torch.Generator().manual_seed(1))
        assert factor.tolist() == expected
        for i in range(len(labels)):
            k = labels[i].tolist().index(chosen[i, 0])
            assert torch.equal(masks[i, 0], provenance[i, k])


def test_a_batch_without_guided_rows_takes_one_pass():
    model, (pixels, labels, provenance, _) = tiny_model("vit"), sample()
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    nobody = torch.zeros(len(labels), dtype=torch.bool)
    _, guidance = guided(model, (pixels, labels, provenance, nobody), GuidanceSettings())
    assert len(passes) == 1 and guidance.value.sum().item() == 0.0 and not guidance.measured.any()


@pytest.mark.parametrize("settings", [GuidanceSettings(), GuidanceSettings(fraction=0.5)], ids=["all", "half"])
def test_sharded_processes_make_the_same_passes_whatever_their_rows(settings):
    model, (pixels, labels, provenance, _) = tiny_model("convnext"), sample()
    counts = []
    for rows in ([False] * 4, [True] * 4, [True, False, False, True]):
        passes = []
        hook = model.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        _, guidance = guided(model, (pixels, labels, provenance, torch.tensor(rows)), settings, sharded=True)
        hook.remove()
        counts.append(len(passes))
        assert (guidance.loss > 0).any() == any(rows)
        assert torch.isfinite(parameter_gradient(guidance.surrogate.sum(), model)).all()
    assert len(set(counts)) == 1


def test_batch_statistics_are_updated_once_a_step():
    """Guidance passes use running statistics; only the classification pass moves them."""
    plain, ours = tiny_model("timm").train(), tiny_model("timm").train()
    batch = sample()
    plain(pixel_values=batch[0])
    logits, guidance = guided(ours, batch, GuidanceSettings())
    assert torch.equal(logits, tiny_model("timm").train()(pixel_values=batch[0]).logits)
    for mine, theirs in zip(ours.buffers(), plain.buffers(), strict=True):
        assert torch.equal(mine, theirs)
    with running_statistics(ours), second_derivatives():
        own = exact_guidance(ours(pixel_values=batch[0]).logits, *batch)
    assert torch.allclose(guidance.loss, own.loss, rtol=1e-3)


HALF = [(torch.bfloat16, True, 0.99), (torch.bfloat16, False, 0.95), (torch.float16, False, 0.95)]


@pytest.mark.parametrize(("dtype", "exact", "cosine"), HALF)
def test_half_precision_keeps_the_direction_and_the_losses_are_float32(dtype, exact, cosine):
    model, batch = without_dropout(tiny_model("vit")).eval(), sample()
    double = without_dropout(tiny_model("vit").double()).eval()
    with torch.autocast("cpu", dtype=dtype):
        logits, guidance = guided(model, batch, GuidanceSettings(form=l2, exact=exact))
    assert logits.dtype == dtype and guidance.loss.dtype == torch.float32
    truth = exact_reference(double, batch, l2)
    ours = parameter_gradient(guidance.surrogate.sum(), model).double()
    assert torch.cosine_similarity(ours, truth, dim=0) > cosine
    assert (ours.norm() / truth.norm()).item() == pytest.approx(1, abs=0.1)


def exact_reference(double, batch, form):
    """The parameter gradient in float64."""
    pixels, labels, provenance, rows = batch
    pixels = pixels.detach().double().requires_grad_()
    with second_derivatives():
        logits = double(pixel_values=pixels).logits
    return parameter_gradient(
        exact_guidance(logits, pixels, labels, provenance.double(), rows, form).surrogate.sum(), double
    )


def test_the_default_step_follows_precision_and_kinks():
    smooth, kinked = tiny_model("convnext"), tiny_model("timm", activation="relu")
    cpu = torch.device("cpu")
    assert has_kinks(kinked) and not has_kinks(smooth)
    assert default_step(smooth, cpu) == (3e-4, False) and default_step(kinked, cpu) == (1e-3, False)
    assert default_step(smooth.double(), cpu) == (1e-6, False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert default_step(smooth, cpu) == (3e-3, True)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_gives_the_same_guidance(caplog):
    caplog.set_level("WARNING", logger="torch")
    model, batch = without_dropout(tiny_model("vit")).train(), sample()
    everyone = (*batch[:3], torch.ones(len(batch[1]), dtype=torch.bool))
    compiled = torch.compile(model, backend="aot_eager")
    for rows in (batch, everyone):
        logits, guidance = guided(model, rows, GuidanceSettings())
        other_logits, other = guided(compiled, rows, GuidanceSettings(), compiled=True)
        assert torch.allclose(logits, other_logits, atol=1e-5)
        assert torch.allclose(guidance.loss, other.loss, rtol=1e-4)
        ours, theirs = (backward(g.surrogate.sum(), model) for g in (guidance, other))
        assert torch.cosine_similarity(ours, theirs, dim=0) > 0.999


def backward(value, model):
    """The parameter gradient by `backward`, which frees the graph, as training does."""
    model.zero_grad()
    value.backward()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in model.parameters()])


def test_activation_checkpointing_gives_the_same_guidance():
    model, batch = without_dropout(tiny_model("vit")).train(), sample()
    _, plain = guided(model, batch, GuidanceSettings())
    expected = parameter_gradient(plain.surrogate.sum(), model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    _, saved = guided(model, batch, GuidanceSettings())
    ours = backward(saved.surrogate.sum(), model)
    assert torch.allclose(ours, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
