"""What people look at: figures that show what they claim, and a card whose numbers come from the record."""

import numpy as np
import pytest
from huggingface_hub import ModelCard

from hf_pgg import CutMix, PGGCollator
from hf_pgg.model_card import environment, model_card
from hf_pgg.visualization import gradient_map, gradient_maps, learning_curves, overlay, sample_grid

from .conftest import tiny_model


def test_an_overlay_colours_the_mask_and_nothing_else():
    picture = np.full((4, 4, 3), 100, np.uint8)
    mask = np.zeros((4, 4))
    mask[1, 1] = 1
    shown = overlay(picture, [mask])
    assert (shown != picture).any(-1).sum() == 1 and (shown[1, 1] != 100).any()


def test_a_gradient_map_peaks_where_the_gradient_does():
    gradient = np.zeros((3, 20, 20))
    gradient[:, 4, 15] = 7
    shown = gradient_map(gradient)
    assert shown[4, 15] == shown.max() == 1 and shown[12:].max() == 0


def test_figures_hold_a_panel_for_each_picture(photos, guided_photos, processor):
    figure = sample_grid(CutMix(source=photos).map(photos), count=5)
    assert len(figure.axes) == 10 and " + " in figure.axes[0].get_title()
    figure = gradient_maps({"a": tiny_model("vit"), "b": tiny_model("vit")}, guided_photos, PGGCollator(processor), 4)
    assert len(figure.axes) == 12
    assert all("% inside" in axes.get_title() for axes in figure.axes[4:])


def test_curves_show_each_run():
    history = [{"step": i, "classification_loss": 1 / (i + 1), "train_accuracy": 0.5, "loss": 1} for i in range(5)]
    figure = learning_curves({"plain": history, "guided": history})
    assert [line.get_label() for line in figure.axes[0].lines] == ["plain", "guided"]


@pytest.fixture
def record():
    results = {"accuracy": 0.8123, "worst_group_accuracy": 0.61, "worst_group_accuracy_low": 0.5,
               "worst_group_accuracy_high": 0.7, "loss": 1.0}  # fmt: skip
    return {
        "model": {"name": "guided", "base_model": "some/model"},
        "data": {"name": "some/data", "fingerprint": "abc", "train_rows": 10, "test_rows": 5, "classes": ["a"]},
        "method": {"name": "guided", "alpha": 10.0, "form": "share", "mode": "finite_difference", "synthesis": "none",
                   "seed": 3, "steps": 7, "epochs": 1.0, "batch_size": 8, "learning_rate": 1e-3, "image_size": 32,
                   "train_seconds": 9.0},
        "results": results,
        "comparison": [{"method": "plain", "accuracy": 0.5}, {"method": "guided", **results}],
        "pictures": [{"file": "samples.png", "title": "Samples"}],
        "collapsed_at": None,
        "nonfinite_steps": 0,
        "environment": environment(),
    }  # fmt: skip


def test_the_card_states_the_record_and_the_hub_can_read_it(record, tmp_path):
    model_card(record).save(tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "some/model" and card.data.pipeline_tag == "image-classification"
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        "accuracy": 0.8123,
        "worst_group_accuracy": 0.61,
    }
    for words in ("0.610 (0.500 to 0.700)", "| plain | 0.500 |", "alpha 10.0", "fingerprint `abc`", "seed 3",
                  "![Samples](samples.png)", "torch "):  # fmt: skip
        assert words in card.content, words
    assert "None" not in card.text and "More information needed" not in card.content


def test_a_failed_run_says_so(record):
    assert "This run failed" not in model_card(record).content
    assert "This run failed" in model_card({**record, "collapsed_at": 40}).content


def test_a_record_that_lacks_a_part_writes_no_card(record):
    del record["comparison"]
    with pytest.raises(KeyError):
        model_card(record)
