"""Small diffusion models of pixels: the condition, the mask as a channel, sampling, and what is stored of an image."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, load_dataset

from hf_pgg.data.images import decode_mask, encode_mask, encode_png, to_rgb
from hf_pgg.generation.pixels import MaskedGeneration, PixelSampler, PixelSpace
from hf_pgg.generation.prompts import Prompts
from hf_pgg.generation.sampling import Request
from hf_pgg.generation.training import GeneratorConfig, GeneratorTrainer

diffusers = pytest.importorskip("diffusers")

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture(scope="module")
def rows():
    """Six images of a bright square, on the left or on the right, with its mask."""
    images, masks = [], []
    for i in range(6):
        mask = np.zeros((8, 8), bool)
        mask[2:6, (0 if i % 2 else 4) : (4 if i % 2 else 8)] = True
        image = np.full((8, 8, 3), 40 * (i % 3), np.uint8)
        image[mask] = 255
        images.append(encode_png(image))
        masks.append(encode_mask(mask))
    return Dataset.from_dict(
        {"image": images, "mask": masks, "side": [i % 2 for i in range(6)], "label": [i % 3 for i in range(6)]},
        features=Features(
            {
                "image": Image(),
                "mask": Image(),
                "side": ClassLabel(names=["right", "left"]),
                "label": ClassLabel(names=["black", "dark", "grey"]),
            }
        ),
    )


@pytest.fixture
def space(rows):
    return PixelSpace.of(rows, ["label", "side"], size=8, patch=2, mask_column="mask")


def sampler(space, seed=0, **options):
    torch.manual_seed(seed)
    scheduler = diffusers.DDIMScheduler(clip_sample=True, timestep_spacing="trailing")
    unet = space.unet(widths=(16, 16)).eval()
    return PixelSampler(unet=unet, space=space, scheduler=scheduler, num_inference_steps=4, **options)


def test_the_condition_is_one_hot_for_each_column(rows, space):
    found = space.condition([{"label": 2, "side": 0}, {"label": 0, "side": 1}])
    assert found.tolist() == [[0, 0, 1, 1, 0], [1, 0, 0, 0, 1]]


def test_a_image_and_its_mask_come_back_as_they_were_from_what_is_denoised(rows, space):
    batch = space.collate([rows[i] for i in range(6)])
    assert batch["pixel_values"].shape == (6, 4, 8, 8)
    assert batch["pixel_values"].min() == -1 and batch["pixel_values"].max() == 1
    folded = space.fold(batch["pixel_values"])
    assert folded.shape == (6, 16, 4, 4)
    for row, image in zip(rows, space.decode(folded), strict=True):
        np.testing.assert_array_equal(image[..., :3], to_rgb(row["image"]))
        np.testing.assert_array_equal(image[..., 3], decode_mask(row["mask"]))


def test_the_mask_may_be_the_contracts_provenance(rows, space):
    in_contract = PixelSpace(conditions=space.conditions, size=8, mask_column="provenance")
    row = rows[1]
    np.testing.assert_array_equal(in_contract.pixels({**row, "provenance": [row["mask"]]}), space.pixels(row))


def test_a_mask_of_zeros_and_ones_is_a_mask(rows, space):
    row = {**rows[1], "mask": {"bytes": encode_png(decode_mask(rows[1]["mask"]) // 255)["bytes"], "path": None}}
    np.testing.assert_array_equal(space.pixels(row), space.pixels(rows[1]))


def test_grey_images_have_one_channel_and_are_drawn_as_rgb(rows):
    space = PixelSpace.of(rows, ["label"], size=8, grey=True)
    pixels = space.collate([rows[0]])["pixel_values"]
    assert pixels.shape == (1, 1, 8, 8)
    (image,) = space.decode(pixels)
    np.testing.assert_array_equal(image, to_rgb(rows[0]["image"]))


def test_the_share_of_dropped_conditions(rows, space):
    torch.manual_seed(0)
    batch = space.collate([rows[0]] * 400)
    _, arguments = space.encode(batch)
    dropped = (arguments["class_labels"].sum(1) == 0).float().mean()
    assert 0.05 < dropped < 0.15


def test_what_a_space_refuses(rows):
    with pytest.raises(ValueError, match="conditions is empty"):
        PixelSpace(conditions={}, size=8)
    with pytest.raises(ValueError, match="patch 3 does not divide size 8"):
        PixelSpace.of(rows, ["label"], size=8, patch=3)
    with pytest.raises(ValueError, match=r"column 'image' is Image.*, not a ClassLabel"):
        PixelSpace.of(rows, ["image"], size=8)
    with pytest.raises(ValueError, match="a first width of 8 cannot carry the noise of 16 channels"):
        PixelSpace.of(rows, ["label"], size=8, patch=2, mask_column="mask").unet(widths=(8, 16))


def test_a_image_depends_on_its_request_alone(rows, space):
    draw = sampler(space)
    requests = [Request(rows[i], "", seed) for i, seed in ((0, 5), (1, 6), (2, 7))]
    together, alone = draw(requests), draw(requests[1:2])
    assert together[1].shape == (8, 8, 4)
    # convolutions sum in another order for another batch size: a grey level at most
    assert np.abs(together[1].astype(int) - alone[0].astype(int)).max() <= 1
    assert np.abs(together[0].astype(int) - together[1].astype(int)).max() > 10


def test_guidance_changes_the_image_and_a_scale_of_one_is_none(rows, space):
    request = [Request(rows[0], "", 3)]
    with torch.no_grad():
        plain, strong = sampler(space, guidance_scale=1.0), sampler(space, guidance_scale=6.0)
    calls = []
    plain.unet.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    weak = plain(request)[0]
    assert set(calls) == {1}, "no second, unconditional prediction"
    assert (weak != strong(request)[0]).any()


def test_a_low_strength_keeps_the_rows_own_image(rows, space):
    requests = [Request(rows[i], "", i) for i in range(6)]
    own = space.decode(space.fold(space.collate(list(rows))["pixel_values"]))

    def distance(strength):
        made = sampler(space, strength=strength)(requests)
        return np.mean([np.abs(a.astype(int) - b.astype(int)).mean() for a, b in zip(made, own, strict=True)])

    # one of the scheduler's four steps, its last and nearly clean one, against all four from noise
    assert distance(0.25) < distance(1.0)
    with pytest.raises(ValueError, match="strength"):
        sampler(space, strength=0.1)


def test_a_diverged_unet_is_told(rows, space):
    draw = sampler(space, model="out/unet")
    with torch.no_grad():
        draw.unet.conv_in.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="UNet of 'out/unet' returned NaN"):
        draw([Request(rows[0], "", 0)])


def test_training_learns_where_the_condition_says_the_square_is(rows, tmp_path):
    space = PixelSpace.of(rows, ["label", "side"], size=4, mask_column="mask")
    config = GeneratorConfig(
        output_dir=str(tmp_path),
        max_steps=300,
        per_device_train_batch_size=32,
        learning_rate=5e-3,
        warmup_steps=10,
        lr_scheduler_type="cosine",
        save_strategy="no",
        report_to=["none"],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    torch.manual_seed(0)
    unet = space.unet(widths=(16, 32))
    noise = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    many = rows.select(list(range(6)) * 32)
    GeneratorTrainer(
        unet, config, scheduler=noise, encode=space.encode, train_dataset=many, data_collator=space.collate
    ).train()
    scheduler = diffusers.DDIMScheduler.from_config(noise.config, clip_sample=True, timestep_spacing="trailing")
    draw = PixelSampler(unet=unet.eval(), space=space, scheduler=scheduler, num_inference_steps=10)
    for side in (0, 1):
        images = np.stack(draw([Request({"label": 0, "side": side}, "", seed) for seed in range(8)])).astype(int)
        left, right = (images[:, 1:3, columns, 3].mean() for columns in (slice(0, 2), slice(2, 4)))
        assert (left > right + 60) == (side == 1) and (right > left + 60) == (side == 0)


def test_the_mask_channel_is_stored_as_provenance(rows, space, tmp_path):
    generation = MaskedGeneration(
        source=rows,
        sampler=sampler(space),
        prompts=Prompts(("{class}, {side}",)),
        folder=str(tmp_path),
        keep_columns=("side",),
        versions=2,
    )
    generation.run()
    generation.store().publish()
    made = load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(made) == 12
    for row in made:
        request = generation.request(row["version"] * 6 + row["source_row"], 1)
        image = generation.sampler([request])[0].astype(int)
        assert np.abs(to_rgb(row["image"]) - image[..., :3]).max() <= 1
        assert np.abs(decode_mask(row["provenance"][0]) - image[..., 3]).max() <= 1
        assert row["labels"] == [row["label"]] and row["label_weights"] == [1.0]


@pytest.fixture
def recipe(monkeypatch):
    """A recipe in this process: `recipe("name", "--option", value, ...)`; returns its module."""
    monkeypatch.syspath_prepend(str(RECIPES))

    def call(name, *arguments):
        quiet = ["--disable_tqdm", "True", "--use_cpu"]
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments), *quiet])
        module = importlib.import_module(name)
        module.main()
        return module

    return call


def test_the_recipe_draws_masked_images_of_every_pair_on_data_of_ones_own(rows, recipe, tmp_path, capsys):
    rows.to_parquet(tmp_path / "rows.parquet")
    arguments = (
        "train_pixel_generator", "--dataset_name", tmp_path / "rows.parquet", "--conditions", "label", "side",
        "--bias_column", "side", "--mask_column", "mask", "--size", 8, "--widths", 8, 8, "--max_steps", 2,
        "--num_inference_steps", 2, "--versions", 1, "--output_dir", tmp_path / "out",
    )  # fmt: skip
    recipe(*arguments)
    made = load_dataset(str(tmp_path / "out" / "images"), split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(zip(made["label"], made["side"], strict=True)) == sorted(
        [(i, s) for i in range(3) for s in (0, 1)] * 2
    )
    assert made[0]["provenance"][0].size == (8, 8)
    weights = tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors"
    written = weights.stat().st_mtime_ns
    recipe(*arguments)
    assert "trained before" in capsys.readouterr().out and weights.stat().st_mtime_ns == written
    recipe(*arguments[:-1], tmp_path / "other", "--learning_rate", 1e-4)
    assert "trained before" not in capsys.readouterr().out
    for option, values in {"--conditions": ["side"], "--bias_column": ["name"]}.items():
        with pytest.raises(ValueError, match="is not among --conditions"):
            recipe(*arguments, option, *values)


def test_drawn_digits_become_balanced_rows_that_ffr_guides(recipe, tmp_path):
    recipe(
        "train_pixel_generator",
        "--max_steps",
        2,
        "--widths",
        8,
        8,
        "--num_inference_steps",
        1,
        "--output_dir",
        tmp_path,
    )
    made = load_dataset(str(tmp_path / "images"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(made) == 2 * 2 * 1077
    even = [digit % 2 for digit in made["digit"]]
    assert made["label"] == even and made["bias"].count(0) == made["bias"].count(1)
    assert len(list((tmp_path / "contact_sheets").glob("*.png"))) == 4
    train_ffr = recipe("train_ffr", "--data", "ffr", "--guided", "--synthetic_dataset", tmp_path / "images",
                       "--max_steps", 4, "--output_dir", tmp_path / "ffr")  # fmt: skip
    (record,) = train_ffr.read_records(tmp_path / "ffr" / "results.jsonl")
    assert record["stage_one"]["guided_rows"] == sum(map(sum, record["synthetic_rows"])) > 0
