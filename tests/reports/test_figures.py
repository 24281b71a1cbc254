"""Figures show what they claim."""

import numpy as np

from hf_pgg import CutMix, PGGCollator
from hf_pgg.reports.figures import gradient_map, gradient_maps, learning_curves, overlay, sample_grid
from tests.conftest import tiny_model


def test_an_overlay_colours_the_mask_and_nothing_else():
    image = np.full((4, 4, 3), 100, np.uint8)
    mask = np.zeros((4, 4))
    mask[1, 1] = 1
    shown = overlay(image, [mask])
    assert (shown != image).any(-1).sum() == 1 and (shown[1, 1] != 100).any()


def test_a_gradient_map_peaks_where_the_gradient_does():
    gradient = np.zeros((3, 20, 20))
    gradient[:, 4, 15] = 7
    shown = gradient_map(gradient)
    assert shown[4, 15] == shown.max() == 1 and shown[12:].max() == 0


def test_figures_hold_a_panel_for_each_image(photos, guided_photos, processor):
    figure = sample_grid(CutMix(source=photos).map(photos), count=5)
    assert len(figure.axes) == 10 and " + " in figure.axes[0].get_title()
    figure = gradient_maps({"a": tiny_model("vit"), "b": tiny_model("vit")}, guided_photos, PGGCollator(processor), 4)
    assert len(figure.axes) == 12
    assert all("% inside" in axes.get_title() for axes in figure.axes[4:])


def test_curves_show_each_run():
    history = [{"step": i, "classification_loss": 1 / (i + 1), "train_accuracy": 0.5, "loss": 1} for i in range(5)]
    figure = learning_curves({"plain": history, "guided": history})
    assert [line.get_label() for line in figure.axes[0].lines] == ["plain", "guided"]
