"""An audit finds what classifiers built by hand rely on, and refuses what it cannot measure."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from hf_pgg import add_provenance, audit
from hf_pgg.auditing.audit import AuditSettings
from hf_pgg.auditing.report import as_html, as_record, exceeded, write_report
from hf_pgg.auditing.variants import FILLS, Pool, fill, footprint
from hf_pgg.cli.main import main
from hf_pgg.data.images import encode_png
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.localization.classifier import Classifier
from tests.conftest import tiny_model

SIDE, CLASSES = 16, 8
LEVELS = np.linspace(20, 230, CLASSES)
SPEC = InputSpec((SIDE, SIDE), (SIDE, SIDE), mean=(0.0,) * 3, std=(1.0,) * 3)
MASK = np.zeros((SIDE, SIDE), np.uint8)
MASK[5:11, 5:11] = 255
NAMES = [f"class {i}" for i in range(CLASSES)]


def dataset(count=80, names=NAMES, **columns):
    """Object and background both tell the class, by their grey level, each a little off."""
    images, rng = [], np.random.default_rng(0)
    for i in range(count):
        image = np.full((SIDE, SIDE, 3), LEVELS[i % len(names)] + rng.integers(-9, 10), np.uint8)
        image[MASK > 0] = LEVELS[i % len(names)] + rng.integers(-9, 10)
        images.append(encode_png(image))
    values = {
        "image": images,
        "mask": [encode_png(MASK)] * count,
        "label": [i % len(names) for i in range(count)],
        "scene": ["sand" if i % 3 else "snow" for i in range(count)],
    }
    features = {"image": Image(), "mask": Image(), "label": ClassLabel(names=names), "scene": Value("string")}
    return Dataset.from_dict({**values, **columns}, Features(features))


class Reader(nn.Module):
    """Reads the grey level of the object, of the background, or both: its logits are linear in the two readings."""

    def __init__(self, foreground, background, classes=CLASSES):
        super().__init__()
        self.weights, self.levels = (foreground, background), nn.Parameter(torch.tensor(LEVELS[:classes]).float() / 255)

    def forward(self, pixel_values):
        readings = (pixel_values[:, :, 7:9, 7:9].mean((1, 2, 3)), pixel_values[:, :, 0:2].mean((1, 2, 3)))
        logits = sum(
            weight * -((reading[:, None] - self.levels) ** 2 - reading[:, None] ** 2)
            for weight, reading in zip(self.weights, readings, strict=True)
        )
        return ImageClassifierOutput(logits=logits)


def classifier(foreground, background, names=NAMES):
    return Classifier("by hand", Reader(foreground, background, len(names)), SPEC, dict(enumerate(names)))


MASKED = AuditSettings(mask_column="mask")


def test_a_classifier_that_reads_the_object_alone_relies_on_no_background():
    found = audit(classifier(1, 0), dataset(), MASKED)
    assert found.results["background_effect"]["value"] == pytest.approx(0, abs=1e-6)
    assert found.results["accuracy_random"]["value"] == found.results["accuracy_only_foreground"]["value"] == 1
    assert found.results["foreground_effect"]["value"] > 0.5 and found.results["bg_gap"]["value"] == 0
    assert "not seen to decide" in found.verdict


def test_a_classifier_that_reads_the_background_alone_is_found_out():
    found = audit(classifier(0, 1), dataset(), MASKED)
    assert found.results["foreground_effect"]["value"] == pytest.approx(0, abs=1e-6)
    assert found.results["bg_gap"]["value"] > 0.8 and found.results["flip_rate"]["value"] > 0.8
    assert found.results["accuracy_no_foreground"]["value"] == 1
    assert found.results["accuracy_other_class"]["value"] == found.results["adversarial_accuracy"]["value"] == 0
    assert "more than the object" in found.verdict


@pytest.mark.parametrize("share", [0.25, 0.5, 2.0])
def test_a_mixture_of_both_gives_effects_in_the_ratio_of_its_weights(share):
    names = NAMES[:2]  # with two classes the margin is linear in both readings
    found = audit(classifier(1, share, names), dataset(400, names), replace(MASKED, draws=8))
    assert found.results["effect_ratio"]["value"] == pytest.approx(share, rel=0.15)
    figure = found.results["effect_ratio"]
    assert figure["low"] < share < figure["high"]


def test_two_checkpoints_on_one_data_set_differ_with_an_interval_that_leaves_out_zero():
    rows = dataset()
    looks_at_object, looks_at_both = audit(classifier(1, 0), rows, MASKED), audit(classifier(1, 1), rows, MASKED)
    figure = looks_at_object.reliance.compared(looks_at_both.reliance)["background_effect"]
    assert figure["value"] <= figure["high"] < 0


def test_masks_boxes_and_provenance_are_one_to_it():
    rows = dataset(columns := 32)
    boxes = rows.add_column("bbox", [[5, 5, 6, 6]] * columns)
    known = add_provenance(rows, mask_column="mask")
    of_boxes = audit(classifier(1, 1), boxes, AuditSettings(box_column="bbox", box_format="xywh"))
    assert of_boxes.results == audit(classifier(1, 1), known).results == audit(classifier(1, 1), rows, MASKED).results


def test_the_result_depends_on_the_seed_alone():
    rows = dataset(48)
    first = audit(classifier(1, 1), rows, MASKED)
    assert first.results == audit(classifier(1, 1), rows, replace(MASKED, batch_size=5)).results
    assert first.results != audit(classifier(1, 1), rows, replace(MASKED, seed=1)).results


def test_classes_are_matched_by_name():
    turned = Classifier("turned", Reader(1, 0), SPEC, dict(enumerate(reversed(NAMES))))
    assert audit(turned, dataset(), MASKED).results["accuracy_original"]["value"] == 0
    loose = Classifier("loose", Reader(1, 0), SPEC, {i: name.upper().replace(" ", "_") for i, name in enumerate(NAMES)})
    assert audit(loose, dataset(), MASKED).results["accuracy_original"]["value"] == 1
    unnamed = Classifier("unnamed", Reader(1, 0), SPEC, {i: f"LABEL_{i}" for i in range(CLASSES)})
    assert audit(unnamed, dataset(), MASKED).results["accuracy_original"]["value"] == 1
    more = Classifier("more", Reader(1, 0), SPEC, dict(enumerate(NAMES)))
    assert audit(more, dataset(names=NAMES[:3]), MASKED).results["accuracy_original"]["value"] == 1


def test_groups_are_listed():
    found = audit(classifier(1, 1), dataset(48), replace(MASKED, group_column="scene"))
    assert {row["name"]: row["rows"] for row in found.by_group} == {"sand": 32, "snow": 16}


def test_rows_without_a_mask_are_left_out_and_counted():
    rows = dataset(20, mask=[None, *[encode_png(MASK)] * 19])
    found = audit(classifier(1, 1), rows, MASKED)
    assert found.left_out == {"without a mask": 1} and 0 not in found.rows
    drawn = audit(classifier(1, 1), dataset(200), replace(MASKED, max_rows=50))
    assert len(drawn.rows) + drawn.left_out.get("alone in their class", 0) == 50
    assert drawn.left_out["not drawn"] == 150


ALL, NOTHING = (encode_png(np.full((SIDE, SIDE), value, np.uint8)) for value in (255, 0))


@pytest.mark.parametrize(
    ("rows", "settings", "sentence"),
    [
        (dataset(16), AuditSettings(), "there are no masks.*name `mask_column` or `box_column`"),
        (dataset(16, mask=[ALL] * 16), MASKED, "row 0.*covers all"),
        (dataset(16, mask=[NOTHING] * 16), MASKED, r"row 0.*(covers nothing|no pixel of the object)"),
        (dataset(4, names=["class 0"]), MASKED, "two classes or more"),
        (dataset(4), MASKED, "two rows of each"),
        (dataset(16, names=["cat", "dog"]), MASKED, "classes cat, dog of the data are not once among the 8"),
        (dataset(16), replace(MASKED, group_column="weather"), "column 'weather' is not in the dataset"),
        (dataset(16), replace(MASKED, fill="pink"), "choose grey, blur, surroundings"),
        (dataset(16), replace(MASKED, draws=0), "draws is 0: give 1 or more"),
    ],
)
def test_what_cannot_be_measured_is_told_in_a_sentence(rows, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        audit(classifier(1, 1), rows, settings)


def test_mixes_are_refused():
    rows = add_provenance(dataset(16), mask_column="mask")
    mixed = rows.map(
        lambda row: {"labels": [0, 1], "label_weights": [0.5, 0.5], "provenance": row["provenance"] * 2},
        features=rows.features,
    )
    with pytest.raises(ValueError, match=r"row 0.*2 labels: audit images of one class"):
        audit(classifier(1, 1), mixed)


def test_a_classifier_with_one_answer_is_told():
    model = Reader(0, 0)
    model.levels.data = -torch.arange(CLASSES).float()  # logits that follow nothing
    model.forward = lambda pixel_values: ImageClassifierOutput(logits=model.levels.expand(len(pixel_values), -1))
    found = audit(Classifier("constant", model, SPEC, dict(enumerate(NAMES))), dataset(16), MASKED)
    assert found.verdict == "Every answer is class 0: this classifier tells nothing apart."


# ---------------------------------------------------------------------------------------------- the images


def test_a_filled_image_keeps_what_is_outside_and_is_smooth_inside():
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32).clone()
    inside = torch.zeros(1, 1, 32, 32)
    inside[..., 10:22, 10:22] = 1
    spoilt = torch.where(inside.bool(), torch.tensor(9.0), ramp)
    filled = fill(spoilt, inside)
    assert torch.equal(filled[inside.expand(-1, 3, -1, -1) == 0], ramp[inside.expand(-1, 3, -1, -1) == 0])
    assert (filled - ramp).abs().max() < 0.15


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 3), (16, 31)])
def test_any_size_can_be_filled(shape):
    inside = torch.zeros(1, 1, *shape)
    inside[..., 0, 0] = 1
    assert torch.isfinite(fill(torch.rand(1, 3, *shape), inside)).all()


def test_nothing_of_a_partners_object_is_left_on_its_background():
    pixels, masks = torch.zeros(2, 3, SIDE, SIDE), torch.zeros(2, 1, SIDE, SIDE)
    masks[..., 5:11, 5:11], masks[..., 5, :] = 1.0, 0.5 * masks[..., 5, :]
    pixels[(footprint(masks) > 0).expand(-1, 3, -1, -1)] = 9.0
    pool = Pool(torch.cat([pixels] * 2), torch.cat([masks] * 2), np.array([0, 0, 1, 1]))
    assert pool.backgrounds.abs().max() == 0


@pytest.mark.parametrize("how", FILLS)
def test_an_object_alone_is_the_object(how):
    pixels, masks = torch.rand(4, 3, SIDE, SIDE), torch.zeros(4, 1, SIDE, SIDE)
    masks[..., 5:11, 5:11] = 1
    shown = dict(Pool(pixels, masks, np.array([0, 0, 1, 1]), fill=how).variants([0, 3]))
    alone = shown["only_foreground"][:, 0]
    assert torch.equal(alone[..., 5:11, 5:11], pixels[[0, 3]][..., 5:11, 5:11])
    assert not torch.equal(alone[..., :3, :3], pixels[[0, 3]][..., :3, :3])
    assert torch.equal(
        shown["refilled"][:, 0][masks[[0, 3]].expand(-1, 3, -1, -1) == 1],
        alone[masks[[0, 3]].expand(-1, 3, -1, -1) == 1],
    )


def test_partners_are_of_the_class_they_are_said_to_be():
    labels = np.repeat(np.arange(4), 5)
    pool = Pool(torch.zeros(20, 3, 4, 4), torch.zeros(20, 1, 4, 4), labels, draws=6)
    for row in range(20):
        partners = pool.partners(row)
        assert labels[partners["same_class"]] == labels[row] != labels[partners["other_class"]]
        assert all(row not in found for found in partners.values())
        assert len(set(partners["random"])) == 6


# ---------------------------------------------------------------------------------------------- the report


def test_the_page_holds_everything_and_needs_nothing(tmp_path):
    names = ["<b>cat</b>", "dog"]
    found = audit(classifier(1, 1, names), dataset(20, names), MASKED)
    page = as_html(found)
    assert "<script" not in page and "http" not in page and "&lt;b&gt;cat" in page and "<b>cat" not in page
    assert page.count("data:image/png;base64,") == 16 and found.verdict.split(":")[0] in page
    record = json.loads((write_report(tmp_path, found) / "audit.json").read_text())
    assert record == json.loads(json.dumps(as_record(found)))
    assert set(record["results"]) >= {"background_effect", "foreground_effect", "bg_gap", "flip_rate", "fill_effect"}


def test_thresholds_are_figures():
    found = audit(classifier(1, 1), dataset(40), MASKED)
    value = found.results["background_effect"]["value"]
    assert exceeded(found, [f"effect={value + 0.01}"]) == []
    (sentence,) = exceeded(found, [f"effect={value - 0.01}", "flips=1"])
    assert sentence.startswith("background_effect is ")
    for wrong in ("effect", "effect=a", "effekt=1"):
        with pytest.raises(ValueError, match=r"give FIGURE=VALUE|there is no figure"):
            exceeded(found, [wrong])


def test_the_command_writes_a_report_and_fails_above_a_threshold(tmp_path, capsys, processor):
    model = tiny_model("vit")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    dataset(24, names[:CLASSES]).to_parquet(tmp_path / "test.parquet")
    words = ["audit", str(tmp_path / "model"), str(tmp_path / "test.parquet"), "--output_dir", str(tmp_path / "out")]
    words += ["--mask_column", "mask", "--against", str(tmp_path / "model"), "--group_column", "scene"]
    main(words)
    said = capsys.readouterr().out
    assert "difference, paired" in said and "| Groups | rows |" in said and "written: " in said
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["audit.html", "audit.json", "audit.md"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--fail_above", "effect=-1"])
    assert ended.value.code == 1 and "background_effect is " in capsys.readouterr().out


def test_the_command_tells_what_is_wrong_in_one_line(tmp_path, capsys):
    dataset(8).to_parquet(tmp_path / "test.parquet")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(tmp_path / "none"), str(tmp_path / "test.parquet"), "--output_dir", str(tmp_path / "out")])
    assert ended.value.code == 2 and not (tmp_path / "out").exists()
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
