"""Generated images as a data set: prompts, conditioning, samplers, resuming, disk, safety filters, loading."""

import importlib
import json
import shutil
import sys
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value, load_dataset
from datasets.exceptions import DataFilesNotFoundError
from PIL import Image as PILImage

diffusers = pytest.importorskip("diffusers")

import hf_pgg.generation  # noqa: E402
from hf_pgg.data.groups import count_groups, under_every_value  # noqa: E402
from hf_pgg.data.images import encode_png  # noqa: E402
from hf_pgg.generation.conditioning import Conditioner  # noqa: E402
from hf_pgg.generation.pipelines import load_pipeline, revision_of  # noqa: E402
from hf_pgg.generation.prompts import Prompts  # noqa: E402
from hf_pgg.generation.resumable import Generation  # noqa: E402
from hf_pgg.generation.sampling import PairedSampler, Request, TextSampler, _is_grey  # noqa: E402
from tests.generation import tiny_diffusion  # noqa: E402
from tests.generation.tiny_diffusion import NoiseSampler  # noqa: E402

PROMPTS = Prompts(("a photo of a {class}",))


def generation(photos, folder, **options):
    settings = {"sampler": NoiseSampler(), "prompts": PROMPTS, "versions": 2, "batch_size": 4, "part_size": 10}
    return Generation(source=photos, folder=str(folder), **{**settings, **options})


def generate(photos, folder, **options):
    made = generation(photos, folder, **options)
    made.run()
    made.store().publish()
    return load_dataset(str(folder), split="train", cache_dir=f"{folder}-cache")


# ---------------------------------------------------------------------------------------------- prompts


def test_prompts_name_the_class_and_columns(photos):
    prompts = Prompts(("a {class} called {name}",))
    features = Features(label=ClassLabel(names=["sea_bird", "cat"]), name=Value("string"))
    rng = np.random.default_rng(0)
    assert prompts.render({"label": 0, "name": "Ann"}, features, 0, rng) == "a sea bird called Ann"
    features["name"] = ClassLabel(names=["Ann", "Little_Joe"])
    assert prompts.render({"label": 1, "name": 1}, features, 0, rng) == "a cat called Little Joe"


def test_versions_of_a_row_take_different_templates_and_all_are_used_equally(photos, tmp_path):
    prompts = Prompts(tuple(f"{place}, a {{class}}" for place in ("sea", "wood", "town")))
    rows = generate(photos, tmp_path / "out", prompts=prompts, versions=3)
    of_row = {}
    for row in rows:
        of_row.setdefault(row["source_row"], set()).add(row["prompt"].split(",")[0])
    assert all(len(places) == 3 for places in of_row.values())
    assert len({row["prompt"] for row in rows.select(range(len(photos)))}) == 9  # 3 places, 3 classes, in version 0


def test_prompts_of_a_file(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("# birds\n\n a {class} at sea \na {class} in town\n")
    assert Prompts.read(None, file).templates == ("a {class} at sea", "a {class} in town")
    file.write_text("a {class}\n\na bird at sea\n")
    with pytest.raises(ValueError, match=r"prompts.txt, line 3: .* has no \{class\}"):
        Prompts.read(None, file)
    file.write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"prompts.txt holds no prompt"):
        Prompts.read(None, file)
    with pytest.raises(ValueError, match="either as a list or as a text file"):
        Prompts.read(["a {class}"], str(file))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a photo of a bird", r"has no \{class\}: every label would get the same image"),
        ("a {class} in {", "expected '}'|unmatched|Single"),
        ("a {class} in {}", r"\{\} is not the name of a column"),
        ("a {class.__init__}", "is not the name of a column"),
    ],
)
def test_malformed_templates_are_refused(template, message):
    with pytest.raises(ValueError, match=message):
        Prompts((template,))


def test_prompts_that_the_data_cannot_fill_are_refused_before_the_first_image(photos, tmp_path):
    with pytest.raises(ValueError, match=r"\{location\} is neither \{class\} nor a column of: image, label"):
        generation(photos, tmp_path, prompts=Prompts(("a {class} in {location}",))).run()
    names = [*photos["name"][:17], "", *photos["name"][18:]]
    with pytest.raises(ValueError, match="row 17, column 'name': it is empty"):
        rows = photos.remove_columns("name").add_column("name", names)
        generation(rows, tmp_path, prompts=Prompts(("a {class} called {name}",))).run()
    with pytest.raises(ValueError, match="no image has label b"):
        generation(photos.filter(lambda row: row["label"] != 1), tmp_path).run()
    with pytest.raises(ValueError, match="not a ClassLabel"):
        generation(photos, tmp_path, prompts=Prompts(("{class}",), label_column="name")).run()
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------- the data set


def test_exactly_one_image_a_row_and_version_with_every_parameter(photos, tmp_path):
    rows = generate(photos, tmp_path / "out", keep_columns=("scene",))
    pairs = [(version, row) for version in range(2) for row in range(len(photos))]
    assert list(zip(rows["version"], rows["source_row"], strict=True)) == pairs
    assert len(set(rows["seed"])) == len(rows)
    assert rows["label"] == [*photos["label"], *photos["label"]] and rows.features["label"] == photos.features["label"]
    assert rows["scene"][: len(photos)] == photos["scene"][:]
    assert set(rows["generator"]) == {"noise"} and set(rows["strength"]) == {0.5}
    assert rows[1]["prompt"] == "a photo of a b" and rows[1]["attempts"] == 1
    for row in rows.select([0, 30]):
        request = Request({}, "", row["seed"])
        assert np.array_equal(np.asarray(row["image"]), NoiseSampler()([request])[0])


def test_an_interrupted_run_goes_on_without_a_duplicate_or_a_gap_whatever_the_processes(photos, tmp_path):
    whole = generate(photos, tmp_path / "whole")
    for call in (1, 5):  # killed twice, by one process and by the second of three
        with pytest.raises(KeyboardInterrupt):
            cut = generation(photos, tmp_path / "cut", sampler=NoiseSampler(fails_at=call))
            cut.run(process_index=1 if call == 1 else 0, num_processes=3 if call == 1 else 1)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut" / ".parts").glob("*.parquet")}
    assert len(kept) == 1
    with pytest.raises(FileNotFoundError, match="38 of 48 rows are missing"):
        cut.store().publish()
    reports = [generation(photos, tmp_path / "cut", batch_size=3).run(index, 2) for index in range(2)]
    assert sum(images for images, redrawn in reports) == 38
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    cut.store().publish()
    rows = load_dataset(str(tmp_path / "cut"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.to_dict() == whole.to_dict()
    assert generation(photos, tmp_path / "cut").run() == (0, 0)  # finished: nothing is left to do


def test_an_unfinished_folder_cannot_be_taken_for_a_data_set(photos, tmp_path):
    generation(photos, tmp_path / "out").run(0, 2)
    with pytest.raises(DataFilesNotFoundError):
        load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))


def test_a_folder_begun_with_other_settings_is_not_mixed(photos, tmp_path):
    generate(photos, tmp_path / "out")
    with pytest.raises(ValueError, match="seed: 0, now 1"):
        generation(photos, tmp_path / "out", seed=1).run()
    with pytest.raises(ValueError, match="prompts: "):
        generation(photos, tmp_path / "out", prompts=Prompts(("the {class}",))).run()
    with pytest.raises(ValueError, match="source_digest: "):
        generation(photos.select(range(23, -1, -1)), tmp_path / "out").run()


def test_too_small_a_disk_is_refused_at_the_start(photos, tmp_path, monkeypatch, caplog):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    sampler = NoiseSampler()
    with pytest.raises(OSError, match=r"not enough disk: 48 of 48 images to generate, 0.00 GB .* are free"):
        generation(photos, tmp_path / "out", sampler=sampler).run()
    assert sampler.calls == 0


def test_the_disk_use_is_stated_for_what_is_missing(photos, tmp_path):
    made = generation(photos, tmp_path / "out")
    made.store().open()
    assert made.store().require_space(1e6).startswith("48 of 48 images to generate, 0.05 GB on the disk; ")
    made.run(0, 5)
    assert made.store().require_space(1e6).startswith("38 of 48 images to generate, 0.04 GB on the disk; ")


def test_black_images_are_drawn_again_with_another_seed_and_counted(photos, tmp_path, caplog):
    plain = generate(photos, tmp_path / "plain")
    struck = {plain[index]["seed"] for index in (3, 11, 40)}
    made = generation(photos, tmp_path / "out", sampler=NoiseSampler(lambda request: request.seed in struck))
    assert made.run() == (48, 3)
    made.store().publish()
    rows = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert [index for index, attempts in enumerate(rows["attempts"]) if attempts == 2] == [3, 11, 40]
    assert all(np.asarray(row["image"]).any() for row in rows)
    same = [a["seed"] == b["seed"] for a, b in zip(rows, plain, strict=True)]
    assert [index for index, equal in enumerate(same) if not equal] == [3, 11, 40]


def test_a_image_that_stays_black_is_named_and_the_others_are_kept(photos, tmp_path):
    def strikes(request):
        return request.row["name"] == "photo-5"

    made = generation(photos, tmp_path / "out", sampler=NoiseSampler(strikes), max_attempts=3, part_size=6)
    with pytest.raises(
        RuntimeError, match=r"2 images stayed black at 3 seeds each \(row 5 version 0, row 5 version 1\)"
    ):
        made.run()
    assert made.store().missing_rows() == 12  # the two parts that hold them
    assert generation(photos, tmp_path / "out", part_size=6).run()[0] == 12


def test_contact_sheets_show_every_class(photos, tmp_path):
    made = generation(photos, tmp_path / "out")
    generate(photos, tmp_path / "out")
    sheets = made.write_contact_sheets(per_class=6)
    assert [sheet.name for sheet in sheets] == ["000-a.png", "001-b.png", "002-c.png"]
    rows = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    first = np.asarray(PILImage.open(sheets[1]))
    assert first.shape == (128, 6 * 128, 3)
    place = rows["label"].index(1)  # the first image of the class, enlarged
    assert abs(first[:, :128].mean() - np.asarray(rows[place]["image"]).mean()) < 2


def test_what_generation_refuses(photos, tmp_path):
    with pytest.raises(ValueError, match="versions is 0"):
        generation(photos, tmp_path, versions=0)
    with pytest.raises(ValueError, match="the source has no rows"):
        generation(photos.select([]), tmp_path)
    with pytest.raises(ValueError, match="keep_columns: place is not among the source's columns"):
        generation(photos, tmp_path, keep_columns=("place",))


# ---------------------------------------------------------------------------------------------- conditioning


@pytest.fixture(scope="module")
def pipe():
    return tiny_diffusion.pipeline()


@pytest.fixture(scope="module")
def conditioner(pipe):
    return tiny_diffusion.conditioner(pipe)


def image(seed=0, shape=(40, 32, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_the_image_feature_overwrites_the_last_state_and_nothing_else(pipe, conditioner):
    text = conditioner(["a cat", "a dog"])
    assert text.shape == (2, tiny_diffusion.TOKENS, tiny_diffusion.WIDTH)
    expected, _ = pipe.encode_prompt(["a cat", "a dog"], "cpu", 1, False)
    torch.testing.assert_close(text, expected)
    both = conditioner(["a cat", "a dog"], [image(0), image(1)])
    torch.testing.assert_close(both[:, :-1], text[:, :-1])
    pixels = conditioner.image_processor(images=[image(0), image(1)], return_tensors="pt").pixel_values
    torch.testing.assert_close(both[:, -1], conditioner.image_encoder(pixels).image_embeds)


def test_a_prompt_that_loses_its_end_to_the_image_feature_is_told(conditioner, caplog, monkeypatch):
    told = []
    monkeypatch.setattr("hf_pgg.generation.conditioning.logger.warning_once", told.append)
    conditioner(["a cat"], [image()])
    assert not told
    conditioner(["x " * 80], [image()])
    assert "77 tokens or more has lost its end" in told[0]


def test_a_clip_model_of_another_width_is_refused(pipe):
    parts = {"tokenizer": pipe.tokenizer, "text_encoder": pipe.text_encoder}
    with pytest.raises(ValueError, match="the CLIP feature has 24 elements, the text's states 16"):
        Conditioner(**parts, image_encoder=tiny_diffusion.image_encoder(24), image_processor=object())
    with pytest.raises(ValueError, match="come together"):
        Conditioner(**parts, image_encoder=tiny_diffusion.image_encoder())


# ---------------------------------------------------------------------------------------------- the sampler


def requests(count=3):
    return [Request({"image": image(seed)}, f"a photo of {seed}", 100 + seed) for seed in range(count)]


@pytest.fixture(scope="module")
def sampler(pipe, conditioner):
    return PairedSampler(
        pipeline=pipe, conditioner=conditioner, model="tiny", revision="r", size=32, num_inference_steps=4
    )


def test_a_image_depends_on_its_request_alone(sampler):
    three = sampler(requests())
    assert [made.shape for made in three] == [(32, 32, 3)] * 3
    for made, request in zip(three, requests(), strict=True):
        assert np.abs(made.astype(int) - sampler([request])[0]).max() <= 1  # rounding of batched arithmetic
    (other,) = sampler([Request(requests()[0].row, "a photo of 0", 7)])
    assert np.abs(three[0].astype(int) - other).mean() > 1


def test_the_real_image_and_its_feature_matter(sampler, pipe):
    """A weak strength stays near the VAE's copy of the paired image; the feature changes what is drawn."""
    request = requests(1)[0]
    weak = PairedSampler(pipeline=pipe, conditioner=sampler.conditioner, size=32, strength=0.05, num_inference_steps=40)
    start = torch.from_numpy(image()[4:36].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        copy = pipe.vae.decode(pipe.vae.encode(start).latent_dist.mode()).sample
    copy = ((copy[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1) * 255).numpy()
    distances = [np.abs(made - copy).mean() for made in (weak([request])[0], sampler([request])[0])]
    assert distances[0] < distances[1]

    parts = {"tokenizer": pipe.tokenizer, "text_encoder": pipe.text_encoder}
    text_alone = PairedSampler(pipeline=pipe, conditioner=Conditioner(**parts), size=32, num_inference_steps=4)
    assert not np.array_equal(text_alone([request])[0], sampler([request])[0])


def test_22_of_30_steps_are_run_as_published(pipe, conditioner, monkeypatch):
    steps = []
    forward = pipe.unet.forward
    monkeypatch.setattr(pipe.unet, "forward", lambda *args, **kwargs: steps.append(1) or forward(*args, **kwargs))
    PairedSampler(pipeline=pipe, conditioner=conditioner, size=32)(requests(1))
    assert len(steps) == 22


def test_images_struck_by_the_pipelines_own_safety_checker_are_black(conditioner):
    options = {"conditioner": conditioner, "size": 32, "num_inference_steps": 4}
    for strikes, struck in ((-2.0, True), (2.0, False)):
        checked = tiny_diffusion.pipeline(safety_checker=tiny_diffusion.safety_checker(strikes))
        made = PairedSampler(pipeline=checked, **options)(requests(2))
        assert [not one.any() for one in made] == [struck, struck]


def test_nan_is_told_instead_of_stored(pipe, conditioner, monkeypatch):
    monkeypatch.setattr(pipe.vae, "decode", lambda latents, **kwargs: (torch.full((1, 3, 32, 32), torch.nan),))
    with pytest.raises(ValueError, match=r"returned NaN in torch.float32: run"):
        PairedSampler(pipeline=pipe, conditioner=conditioner, size=32, num_inference_steps=2)(requests(1))


def test_a_strength_that_leaves_no_step_is_refused(pipe, conditioner):
    for strength in (0.0, 0.02, 1.5):
        with pytest.raises(ValueError, match="leaves none"):
            PairedSampler(pipeline=pipe, conditioner=conditioner, strength=strength)


def test_generation_with_a_pipeline_end_to_end(photos, sampler, tmp_path):
    rows = generate(photos.select(range(6)), tmp_path / "out", sampler=sampler, versions=1)
    assert rows[0]["image"].size == (32, 32)
    known = {"model": "tiny", "revision": "r", "scheduler": "UniPCMultistepScheduler", "image_feature": True}
    known |= {"strength": 0.75, "guidance_scale": 2.0, "num_inference_steps": 4, "lora": "", "size": 32}
    assert {name: rows[0][name] for name in known} == known


# ---------------------------------------------------------------------------------------------- loading


@pytest.fixture(scope="module")
def saved(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline") / "tiny"
    pipe.save_pretrained(folder)
    return folder


def test_a_local_pipeline_loads_and_its_revision_is_a_digest_of_its_files(saved, tmp_path):
    loaded = load_pipeline(str(saved), "StableDiffusionInpaintPipeline")
    assert type(loaded).__name__ == "StableDiffusionInpaintPipeline"
    shutil.copytree(saved, tmp_path / "copy")
    assert revision_of(str(saved)) == revision_of(str(tmp_path / "copy"))
    config = tmp_path / "copy" / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "beta_end": 0.5}))
    assert revision_of(str(saved)) != revision_of(str(tmp_path / "copy"))
    with pytest.raises(ValueError, match="has no pipeline 'Unheard'"):
        load_pipeline(str(saved), "Unheard")


def test_pickled_weights_are_never_read(saved, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(saved, folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(tiny_diffusion.unet().state_dict(), folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(OSError, match=r"It holds diffusion_pytorch_model.bin. Weights are read from safetensors"):
        load_pipeline(str(folder))


def test_code_of_a_repository_is_not_run_unless_asked_for(saved, tmp_path):
    folder = tmp_path / "custom"
    shutil.copytree(saved, folder)
    ran = tmp_path / "ran"
    code = (
        f"from pathlib import Path\nfrom diffusers import StableDiffusionImg2ImgPipeline\nPath({str(ran)!r}).touch()\n"
    )
    (folder / "own.py").write_text(code + "class Own(StableDiffusionImg2ImgPipeline):\n    pass\n")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": ["own", "Own"]}))
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        load_pipeline(str(folder))
    assert not ran.exists()
    assert type(load_pipeline(str(folder), trust_remote_code=True)).__name__ == "Own" and ran.exists()


def test_the_library_needs_no_diffusers_until_a_pipeline_is_loaded(monkeypatch):
    monkeypatch.setattr(hf_pgg, "generation", hf_pgg.generation)  # put back afterwards, as the modules are
    for name in [name for name in sys.modules if name.startswith("hf_pgg.generation")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    fresh = importlib.import_module("hf_pgg.generation.pipelines")
    assert fresh.load_pipeline is not load_pipeline
    with pytest.raises(ImportError, match=r"pip install hf-pgg\[generation\]"):
        fresh.load_pipeline("any")


def test_a_image_that_cannot_be_read_is_named(photos, tmp_path):
    broken = {"bytes": encode_png(image())["bytes"][:60], "path": None}
    images = [*photos.cast_column("image", photos.features["image"].__class__(decode=False))["image"]]
    rows = Dataset.from_dict(
        {"image": [*images[:5], broken, *images[6:]], "label": photos["label"][:]},
        features=photos.select_columns(["image", "label"]).features,
    )
    with pytest.raises(ValueError, match="row 5, column 'source': the image cannot be decoded"):
        generation(rows, tmp_path / "out").run()


# ---------------------------------------------------------------------------------------------- from text


def test_grey_images_are_refused_and_black_stay_black(monkeypatch):
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    grey = np.repeat(colours[..., :1], 3, axis=2)
    assert _is_grey(grey) and _is_grey(np.zeros_like(grey)) and not _is_grey(colours)
    monkeypatch.setattr(TextSampler, "call_pipeline", lambda sampler, requests, **arguments: [colours, grey])
    sampler = TextSampler(pipeline=tiny_diffusion.pipeline("StableDiffusionPipeline"))
    requests = [Request({}, "a cat", seed) for seed in (0, 1)]
    kept, refused = sampler(requests)
    assert (kept == colours).all() and not refused.any()
    assert (replace(sampler, refuse_grey=False)(requests)[1] == grey).all()


def test_a_run_with_other_columns_is_not_resumed(photos, tmp_path):
    generation(photos, tmp_path / "out").run()
    with pytest.raises(ValueError, match=r"was begun with other settings.*keep_columns"):
        generation(photos, tmp_path / "out", keep_columns=("scene",)).run()


def test_every_row_is_drawn_under_every_value(photos):
    rows = under_every_value(photos, "scene")
    counts = count_groups(rows, "label", "scene")
    assert (counts == np.bincount(photos["label"])[:, None]).all()
    with pytest.raises(ValueError, match="column 'place' is missing"):
        under_every_value(photos, "place")
    with pytest.raises(ValueError, match="column 'name' is Value"):
        under_every_value(photos, "name")
