"""Real-Fake's loss, and training with it: latents under text, pixels under their class."""

import itertools
import json
from pathlib import Path

import pytest
import torch

diffusers = pytest.importorskip("diffusers")

from hf_pgg.generation import training  # noqa: E402
from hf_pgg.generation.distribution_matching import (  # noqa: E402
    add_noise,
    distribution_matching_loss,
    min_snr_weights,
)
from hf_pgg.generation.pipelines import LORA_WEIGHTS, load_lora  # noqa: E402
from hf_pgg.generation.prompts import Prompts  # noqa: E402
from hf_pgg.generation.training import (  # noqa: E402
    GeneratorConfig,
    GeneratorTrainer,
    LatentEncoder,
    PromptedImages,
    add_lora,
)
from tests.generation import tiny_diffusion  # noqa: E402

# ---------------------------------------------------------------------------------------------- the formulas


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3), torch.rand(8)


def test_the_published_form_is_the_sum_over_the_batch_written_out(batch):
    prediction, target, weights = batch
    found = distribution_matching_loss(*batch, matching_weight=0.003, reduction="sum")
    denoising = sum(weights[b] * ((prediction[b] - target[b]) ** 2).mean() for b in range(8)) / 8
    sums = [sum(weights[b] * tensor[b] for b in range(8)) for tensor in (prediction, target)]
    matching = ((sums[0] - sums[1]) ** 2).mean()
    torch.testing.assert_close(found.denoising, denoising)
    torch.testing.assert_close(found.matching, matching)
    torch.testing.assert_close(found.loss, denoising + 0.003 * matching)


def test_the_published_weight_is_64_times_larger_on_means_of_a_batch_of_8(batch):
    published = distribution_matching_loss(*batch, matching_weight=0.003, reduction="sum")
    on_means = distribution_matching_loss(*batch, matching_weight=0.192, reduction="mean")
    torch.testing.assert_close(published.loss, on_means.loss)


def test_the_unbiased_form_is_the_same_at_every_batch_size(batch):
    """The mean over all batches of a size that can be drawn from the samples, which is what its expectation means."""
    prediction, target, weights = batch

    def mean_over_batches(size, reduction):
        values = [
            distribution_matching_loss(
                prediction[list(chosen)], target[list(chosen)], weights[list(chosen)], reduction=reduction
            ).matching
            for chosen in itertools.combinations(range(8), size)
        ]
        return torch.stack(values).mean()

    whole = mean_over_batches(8, "unbiased")
    for size in (2, 5):
        torch.testing.assert_close(mean_over_batches(size, "unbiased"), whole)
    # the two others see the scatter of the samples beside the distance of the means
    assert mean_over_batches(2, "mean") > 2 * mean_over_batches(8, "mean")
    assert mean_over_batches(2, "sum") < mean_over_batches(8, "sum") / 2


@pytest.mark.parametrize("reduction", ["sum", "mean", "unbiased"])
def test_a_perfect_prediction_has_no_loss_and_no_gradient(reduction):
    target = torch.randn(3, 2, 2)
    prediction = target.clone().requires_grad_()
    loss = distribution_matching_loss(prediction, target, torch.ones(3), reduction=reduction).loss
    loss.backward()
    assert loss == 0 and not prediction.grad.any()


def test_half_precision_is_summed_in_float32():
    prediction = torch.full((4, 1000), 300.0, dtype=torch.float16)  # its square overflows
    found = distribution_matching_loss(prediction, torch.zeros_like(prediction), torch.ones(4))
    assert found.loss.dtype == torch.float32 and found.denoising == 90_000


def test_min_snr_weights_of_noise_and_of_velocity():
    snr = torch.tensor([0.0, 1.0, 5.0, 50.0])
    assert min_snr_weights(snr, 5.0).tolist() == pytest.approx([1, 1, 1, 0.1])
    assert min_snr_weights(snr, 5.0, "v_prediction").tolist() == pytest.approx([0, 1 / 2, 5 / 6, 5 / 51])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_noised_samples_follow_the_schedule_and_carry_their_target(kind):
    torch.manual_seed(0)
    scheduler = diffusers.DDPMScheduler(prediction_type=kind)
    clean = torch.randn(64, 1, 4, 4)
    samples, timesteps, target, snr = add_noise(scheduler, clean)
    alpha_bar = scheduler.alphas_cumprod[timesteps][:, None, None, None]
    torch.testing.assert_close(snr, (alpha_bar / (1 - alpha_bar)).flatten())
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    drawn = (samples - signal * clean) / noise
    expected = drawn if kind == "epsilon" else signal * drawn - noise * clean
    torch.testing.assert_close(target, expected, atol=1e-3, rtol=1e-3)
    assert timesteps.min() < 200 and timesteps.max() > 800


def test_a_last_batch_of_one_has_no_pair_and_no_term(batch):
    alone = distribution_matching_loss(*(tensor[:1] for tensor in batch), matching_weight=9, reduction="unbiased")
    assert alone.matching == 0 and alone.loss == alone.denoising > 0


def test_what_the_loss_refuses(batch):
    with pytest.raises(ValueError, match="choose sum, mean, unbiased"):
        distribution_matching_loss(*batch, reduction="median")
    with pytest.raises(ValueError, match="'unbiased' compares samples with each other: take batches of 2 or more"):
        GeneratorConfig(matching_reduction="unbiased", per_device_train_batch_size=1, use_cpu=True)
    with pytest.raises(ValueError, match="do not fit"):
        distribution_matching_loss(batch[0], batch[1][:, :2], batch[2])
    with pytest.raises(ValueError, match="gamma is 0"):
        min_snr_weights(torch.ones(2), 0)
    with pytest.raises(ValueError, match="prediction_type is 'sample'"):
        add_noise(diffusers.DDPMScheduler(prediction_type="sample"), torch.zeros(1, 1, 2, 2))


# ---------------------------------------------------------------------------------------------- training


def config(folder, **options):
    settings = {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1, "seed": 3}
    settings |= {
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
    }
    return GeneratorConfig(output_dir=str(folder), **{**settings, **options})


def latent_trainer(photos, folder, **options):
    pipe = tiny_diffusion.pipeline()
    add_lora(pipe.unet)
    return GeneratorTrainer(
        pipe.unet,
        config(folder, **options),
        scheduler=diffusers.DDPMScheduler.from_config(pipe.scheduler.config),
        encode=LatentEncoder(pipe.vae, tiny_diffusion.conditioner(pipe)),
        train_dataset=photos,
        data_collator=PromptedImages(prompts=Prompts(("photo of {class}",)), features=photos.features, size=32),
    )


def lora_weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.unet.named_parameters() if p.requires_grad}


def test_lora_layers_alone_are_trained_and_a_pipeline_loads_them(photos, tmp_path):
    trainer = latent_trainer(photos, tmp_path / "out")
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all("lora" in name for name in moved)
    assert {p.shape[0] for name, p in trainer.model.named_parameters() if "lora_A" in name} == {4}
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(first["denoising_loss"] + 0.003 * first["matching_loss"], rel=1e-3)

    trainer.save_model(str(tmp_path / "lora"))
    assert [path.name for path in (tmp_path / "lora").iterdir()] == [LORA_WEIGHTS]  # no pickle beside it
    pipe = tiny_diffusion.pipeline()
    load_lora(pipe, str(tmp_path / "lora"), scale=0.5)
    layer = pipe.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1.to_q
    assert layer.scaling == {"generator": 0.5}
    with pytest.raises(OSError, match=f"has no {LORA_WEIGHTS}"):
        load_lora(pipe, str(tmp_path), scale=0.5)


def test_every_image_is_used_in_every_epoch(photos, tmp_path):
    seen = []

    class Counting(PromptedImages):
        def __call__(self, rows):
            seen.extend(row["name"] for row in rows)
            return super().__call__(rows)

    trainer = latent_trainer(photos, tmp_path, max_steps=-1, num_train_epochs=1, per_device_train_batch_size=7)
    trainer.data_collator = Counting(prompts=Prompts(("{class}",)), features=photos.features, size=32)
    trainer.train()
    assert sorted(seen) == sorted(photos["name"])


def test_a_resumed_run_is_the_uninterrupted_one(photos, tmp_path):
    whole = latent_trainer(photos, tmp_path / "whole")
    whole.train()
    latent_trainer(photos, tmp_path / "cut", max_steps=2).train()
    resumed = latent_trainer(photos, tmp_path / "cut")
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-2"))
    for name, value in lora_weights(whole).items():
        torch.testing.assert_close(lora_weights(resumed)[name], value, rtol=0, atol=0)
    files = {path.name for path in (tmp_path / "cut" / "checkpoint-4").iterdir()}
    assert LORA_WEIGHTS in files and "training_args.bin" not in files and "model.safetensors" not in files
    with pytest.raises(OSError, match="not a checkpoint of this kind"):
        resumed._load_from_checkpoint(str(tmp_path))


def test_accumulated_micro_batches_are_averaged(photos, tmp_path, monkeypatch):
    """One step of SGD on a batch of 4, and on the same noise in two halves. (The matching term sees a micro-batch.)"""
    torch.manual_seed(0)
    whole = add_noise(diffusers.DDPMScheduler(), torch.randn(4, 4, 16, 16))
    steps = []
    for size in (4, 2):
        parts = zip(*(value.split(size) for value in whole), strict=True)
        monkeypatch.setattr(training, "add_noise", lambda scheduler, clean, parts=parts: next(parts))
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size, "optim": "sgd"}
        options |= {"max_steps": 1, "learning_rate": 1.0, "max_grad_norm": 0.0, "weight_decay": 0.0}
        trainer = latent_trainer(photos.select(range(4)), tmp_path / str(size), matching_weight=0.0, **options)
        states = torch.ones(size, tiny_diffusion.TOKENS, tiny_diffusion.WIDTH)
        trainer.encode = lambda batch, states=states: (batch["pixel_values"], {"encoder_hidden_states": states})
        before = lora_weights(trainer)
        trainer.train()
        steps.append({name: value - before[name] for name, value in lora_weights(trainer).items()})
    assert any(step.any() for step in steps[0].values())
    for name, step in steps[0].items():
        torch.testing.assert_close(steps[1][name], step)


def test_a_class_conditional_model_of_pixels_trains_with_the_same_loss(photos, tmp_path):
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        num_class_embeds=3,
    )
    trainer = GeneratorTrainer(
        unet,
        config(tmp_path, matching_reduction="unbiased", matching_weight=0.1),
        scheduler=diffusers.DDPMScheduler(),
        encode=lambda batch: (batch["pixel_values"], {"class_labels": batch["labels"]}),
        train_dataset=photos,
        data_collator=PromptedImages(prompts=Prompts(("{class}",)), features=photos.features, size=8),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "unet"))
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "unet", use_safetensors=True)
    for name, value in trainer.model.unet.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)
    assert json.loads((Path(tmp_path) / "checkpoint-4" / "trainer_state.json").read_text())["global_step"] == 4


def test_what_training_refuses(photos, tmp_path):
    with pytest.raises(ValueError, match="choose sum, mean, unbiased"):
        config(tmp_path, matching_reduction="median")
    with pytest.raises(ValueError, match="min_snr_gamma must be positive"):
        config(tmp_path, min_snr_gamma=0.0)
    frozen = tiny_diffusion.unet().requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        GeneratorTrainer(frozen, config(tmp_path), scheduler=None, encode=None)
