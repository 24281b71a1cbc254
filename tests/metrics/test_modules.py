"""The `evaluate` modules as the Hub's Spaces and a user's script have them: cards, pages, batches, combinations."""

import json
import re
import runpy
from pathlib import Path

import evaluate
import gradio
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from gradio_client import Client
from huggingface_hub import SpaceCard
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from hf_pgg import PGGCollator, PGGConfig, PGGTrainer
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import encode_png, to_rgb
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.metrics import MODULES, compute_metrics_of, group_metrics, module_path, pair_groups
from hf_pgg.metrics.modules.page import EXAMPLES, LONGEST_INPUT, write_space
from tests.conftest import SIZE, tiny_model
from tests.hub.server import client

COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def python_blocks(name):
    return re.findall(r"```python\n(.*?)```", (Path(module_path(name)) / "README.md").read_text(), re.DOTALL)


@pytest.fixture
def demo_of(tmp_path):
    """The page of a module's Space, run from the file that the Space holds."""
    return lambda name: runpy.run_path(str(write_space(name, tmp_path / name) / "app.py"))["demo"]


@pytest.fixture(scope="module")
def names(photos, processor):
    """What the cards' snippets call by name."""
    rng = np.random.default_rng(0)
    rows = photos.select(range(4))
    images = [to_rgb(row["image"]) for row in rows]
    return {
        "maps": rng.random((4, 5, 5)),
        "masks": rng.random((4, 9, 9)) > 0.6,
        "boxes": [[[3, 4, 20, 20]]] * 4,
        "sizes": [image.shape[1::-1] for image in images],
        "regions": [None] * 4,
        "model": tiny_model("convnext"),
        "spec": InputSpec.from_processor(processor),
        "images": images,
        "labels": rows["label"],
        "other": evaluate.load(module_path("group_accuracy")),
    }


@pytest.fixture(scope="module")
def clip_names(processor):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 4, SIZE, SIZE, 3), dtype=np.uint8)
    columns = {
        "video": [[encode_png(frame) for frame in clip] for clip in frames],
        "label": [0, 1],
        "bboxes": [[[2.0, 3, 10, 12]] * 4] * 2,
    }
    boxes = List(List(Value("float32")))
    features = Features({"video": List(Image()), "label": ClassLabel(names=["a", "b"]), "bboxes": boxes})
    clips = Dataset.from_dict(columns, features=features)
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    model = VideoMAEForVideoClassification(
        VideoMAEConfig(**shape, image_size=SIZE, patch_size=8, num_frames=4, num_labels=2)
    )
    return {"model": model, "spec": InputSpec.from_processor(processor), "clips": clips, "sampler": FrameSampler(4)}


# ---------------------------------------------------------------------------------------------- as a Space


@pytest.mark.parametrize("name", MODULES)
def test_what_is_pushed_is_a_space(name, tmp_path):
    """Front matter that the Hub knows, a page, its requirements, and a module of the folder's name."""
    folder = write_space(name, tmp_path / "new" / name)
    card = SpaceCard.load(folder / "README.md").data
    assert card.title and card.sdk == "gradio" and {"evaluate", "metric"} <= set(card.tags)
    assert {card.colorFrom, card.colorTo} <= COLOURS and len(card.short_description) <= 60
    assert (folder / card.app_file).is_file() and (folder / f"{name}.py").is_file()
    assert (folder / "requirements.txt").read_text().split() == ["hf-pgg"]
    assert int(card.sdk_version.split(".")[0]) == int(gradio.__version__.split(".")[0])


def validate(folders):
    for folder in folders:
        SpaceCard.load(Path(folder) / "README.md").validate()


def test_the_hub_accepts_the_cards(hub, tmp_path):
    with client(hub, tmp_path / "home") as run:
        run(validate, [module_path(name) for name in MODULES])


@pytest.mark.parametrize("name", MODULES)
def test_the_page_computes_its_example(name, demo_of):
    demo = demo_of(name)
    expected = evaluate.load(module_path(name)).compute(**EXAMPLES[name])
    shown = demo.input_components[0].value
    assert json.loads(shown) == EXAMPLES[name]
    assert demo.fn(shown) == expected
    assert any(value > 0 for value in expected.values())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2", "not JSON"),
        ("[1, 2]", 'a JSON object such as {"predictions": [...]}'),
        ('{"predictions": [1], "references": [1, 0], "groups": [0]}', "Mismatch"),
        ('{"predictions": [1], "references": [1]}', "groups"),
        ('{"predictions": [1], "references": [1], "groups": [0], "confidence": "high"}', "str"),
        ('"' + "1" * LONGEST_INPUT + '"', "longer than 1,000,000 characters"),
    ],
)
def test_the_page_refuses_politely_and_goes_on(text, words, demo_of):
    demo = demo_of("group_accuracy")
    with pytest.raises(gradio.Error, match=re.escape(words)):
        demo.fn(text)
    assert demo.fn(json.dumps(EXAMPLES["group_accuracy"]))["accuracy"] == pytest.approx(4 / 6)


def test_the_page_is_served_on_the_loopback_interface(monkeypatch, demo_of):
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.delenv("GRADIO_SERVER_NAME", raising=False)
    demo = demo_of("group_accuracy")
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True)
    try:
        assert url.startswith("http://127.0.0.1:")
        answer = Client(url, verbose=False).predict(json.dumps(EXAMPLES["group_accuracy"]), api_name="/compute")
    finally:
        demo.close()
    assert answer["worst_group_accuracy"] == 0.5


# ---------------------------------------------------------------------------------------------- as a card says


@pytest.mark.parametrize("name", MODULES)
def test_the_snippets_of_a_card_run_as_written(name, names, clip_names):
    """In order, one names another's results; `compute_metrics` is called as a Trainer does."""
    scope = dict(clip_names if "map" in name else names)
    for block in python_blocks(name):
        exec(block, scope)
    if name in ("group_accuracy", "background_reliance"):
        return  # the `compute_metrics` of groups is below, in a Trainer; the other's rows are no dataset's
    values = scope["compute_metrics"](None)
    assert values and all(np.isfinite(value) for value in values.values())


def test_the_groups_metric_in_a_trainer(guided_photos, processor, tmp_path):
    rows = guided_photos.map(lambda row: {"scene": row["scene"]})
    args = PGGConfig(output_dir=str(tmp_path), group_columns=["scene"], use_cpu=True, report_to=[], disable_tqdm=True)
    trainer = PGGTrainer(
        tiny_model("vit"),
        args,
        eval_dataset=rows,
        processing_class=processor,
        compute_metrics=compute_metrics_of(evaluate.load(module_path("group_accuracy")), "scene"),
    )
    for _ in range(2):  # the module is empty again after each evaluation
        found = trainer.evaluate()
    logits = torch.cat(
        [
            trainer.model.eval()(pixel_values=batch["pixel_values"]).logits.detach()
            for batch in [PGGCollator(processor)(list(rows))]
        ]
    )
    groups = pair_groups(rows["label"], rows["scene"])
    expected = group_metrics(logits.argmax(1).numpy(), rows["label"], groups)
    assert {key: found[f"eval_{key}"] for key in expected} == pytest.approx(expected)


def test_pairs_have_numbers_of_their_own():
    assert pair_groups([0, 1, 1], [2, 0, 2]).tolist() == [2, 10_000, 10_002]
    with pytest.raises(ValueError, match="numbered from 0 to 9999"):
        pair_groups([0], [10_000])


# ---------------------------------------------------------------------------------------------- in batches, combined


@pytest.mark.parametrize("name", MODULES)
def test_rows_in_batches_are_rows_at_once(name, names):
    rng = np.random.default_rng(1)
    rows = {
        "group_accuracy": {key: rng.integers(2, size=6).tolist() for key in ("predictions", "references", "groups")},
        "box_localization": {key: names[of] for key, of in (("predictions", "maps"), ("boxes",) * 2, ("sizes",) * 2)},
        "pixel_average_precision": {"predictions": names["maps"], "references": names["masks"]},
        "background_reliance": EXAMPLES["background_reliance"],
    }.get(name)
    options = {}
    if rows is None:
        example = dict(EXAMPLES[name])
        options = {"num_classes": example.pop("num_classes")}
        rows = {key: 2 * value for key, value in example.items()}
        rows["clips"] = ["one", "two"]
    metric, size = evaluate.load(module_path(name)), len(next(iter(rows.values())))
    at_once = metric.compute(**rows, **options)
    for part in (slice(0, size // 2), slice(size // 2, size)):
        metric.add_batch(**{key: value[part] for key, value in rows.items()})
    assert metric.compute(**options) == at_once


def test_the_groups_metric_combines():
    pair = evaluate.combine({"fair": module_path("group_accuracy"), "again": module_path("group_accuracy")})
    rows = {"predictions": [0, 1, 1], "references": [0, 1, 0], "groups": [0, 0, 1]}
    pair.add_batch(**rows)
    values = pair.compute()
    assert values["fair_worst_group_accuracy"] == values["again_worst_group_accuracy"] == 0


def test_boxes_and_masks_are_judged_in_one_loop(names):
    both = evaluate.combine([module_path("box_localization"), module_path("pixel_average_precision")])
    boxes = {"predictions": names["maps"], "boxes": names["boxes"], "sizes": names["sizes"]}
    masks = {"predictions": names["maps"], "references": names["masks"]}
    both.add_batch(**boxes, references=names["masks"])
    alone = evaluate.load(module_path("box_localization")).compute(**boxes)
    alone |= evaluate.load(module_path("pixel_average_precision")).compute(**masks)
    assert {key.removeprefix("box_localization_"): value for key, value in both.compute().items() if key in alone} == {
        key: value for key, value in alone.items() if key != "num_maps"
    }


def test_frames_and_tubes_are_judged_in_one_loop():
    frames, tubes = EXAMPLES["frame_map"], EXAMPLES["video_map"]
    both = evaluate.combine([module_path("frame_map"), module_path("video_map")])
    both.add_batch(clips=["a clip"], predictions=tubes["predictions"], detections=frames["detections"],
                   references=frames["references"])  # fmt: skip
    values = both.compute(num_classes=3)
    assert values["frame_mAP@0.5"] == values["video_mAP@0.5"] == pytest.approx(100)
