"""Reliance on the background, from logits of paired images: known answers, intervals, and what is refused."""

import numpy as np
import pytest

from hf_pgg.metrics.reliance import Reliance, margins


def logits_of(margin):
    """Two classes, whose first has this margin."""
    return np.stack([np.asarray(margin, float), np.zeros_like(margin, dtype=float)], -1)


def measured(original, random, **others):
    reliance = Reliance()
    variants = {"original": original, "random": random, **others}
    reliance.update(np.zeros(len(original), int), {name: logits_of(value) for name, value in variants.items()})
    return reliance


def test_the_margin_is_the_true_logit_less_the_largest_other():
    logits = np.random.default_rng(0).normal(size=(5, 3, 4))
    labels = np.array([0, 1, 2, 3, 0])
    found = margins(logits, labels)
    for row, draw in np.ndindex(5, 3):
        others = np.delete(logits[row, draw], labels[row])
        assert found[row, draw] == logits[row, draw, labels[row]] - others.max()


def test_effects_are_in_units_of_the_margins_spread():
    original = np.array([1.0, 3.0, 5.0, 7.0])  # spread: the square root of 5
    reliance = measured(original, original - 2, random_object=original + 4)
    results = reliance.result(resamples=0)
    assert results["background_effect"]["value"] == pytest.approx(2 / np.sqrt(5))
    assert results["foreground_effect"]["value"] == pytest.approx(4 / np.sqrt(5))
    assert results["effect_ratio"]["value"] == pytest.approx(0.5)
    assert results["flip_rate"]["value"] == 0.25  # 1 becomes -1
    assert results["accuracy_random"]["value"] == 0.75


def test_scaling_the_logits_changes_no_figure():
    rng = np.random.default_rng(0)
    original, random = rng.normal(size=50), rng.normal(size=50)
    one, ten = (
        measured(original, random).result(resamples=20),
        measured(10 * original, 10 * random).result(resamples=20),
    )
    for name in one:
        assert one[name] == pytest.approx(ten[name])


def test_several_draws_count_alike_and_the_worst_is_adversarial():
    draws = np.array([[1.0, -1.0], [1.0, 1.0]])
    reliance = Reliance()
    reliance.update([0, 0], {"original": logits_of([1.0, 2.0]), "random": logits_of(draws)})
    results = reliance.result(resamples=0)
    assert results["accuracy_random"]["value"] == 0.75 and results["adversarial_accuracy"]["value"] == 0.5
    assert results["flip_rate"]["value"] == 0.25


def test_batches_add_up_to_the_whole():
    rng = np.random.default_rng(0)
    original, random = rng.normal(size=30), rng.normal(size=30)
    parts = Reliance()
    for start in range(0, 30, 7):
        part = slice(start, start + 7)
        variants = {"original": logits_of(original[part]), "random": logits_of(random[part])}
        parts.update(np.zeros(len(original[part]), int), variants)
    assert parts.result() == measured(original, random).result()


def test_the_interval_is_seeded_and_covers_the_value():
    rng = np.random.default_rng(0)
    reliance = measured(rng.normal(size=200), rng.normal(size=200))
    first, again, other = (reliance.result(seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    for figure in first.values():
        assert figure["low"] <= figure["value"] <= figure["high"]


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """|change| is 1 or 3 with equal chance, the margin's spread 1: the effect is 2."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        original = rng.normal(size=80)
        figure = measured(original, original - rng.choice([1.0, 3.0], 80)).result(resamples=200)["background_effect"]
        covered += figure["low"] <= 2 <= figure["high"]
    assert 0.88 <= covered / 200 <= 0.99


def test_a_paired_difference_is_narrower_than_two_intervals():
    rng = np.random.default_rng(0)
    original = rng.normal(size=300)
    change = rng.exponential(size=300)
    one, other = measured(original, original - change), measured(original, original - 0.9 * change)
    figure = one.compared(other)["background_effect"]
    assert figure["value"] == pytest.approx(0.1 * change.mean() / original.std())
    alone = one.result()["background_effect"]
    assert figure["low"] > 0 and figure["high"] - figure["low"] < 0.3 * (alone["high"] - alone["low"])


def test_results_by_class_name_the_class_at_risk_first():
    reliance = Reliance()
    scale = np.array([[1.0], [2.0], [1.0], [2.0]])
    variants = {"original": scale * np.eye(2)[[0, 0, 1, 1]], "random": scale * np.eye(2)[[0, 0, 0, 0]]}
    reliance.update([0, 0, 1, 1], variants)
    risk, safe = reliance.by(reliance.labels, {0: "cat", 1: "dog"})
    assert (risk["name"], risk["flip_rate"], risk["accuracy_random"]) == ("dog", 1.0, 0.0)
    assert (safe["name"], safe["rows"], safe["flip_rate"]) == ("cat", 2, 0.0)


def test_margins_that_never_differ_have_no_unit():
    assert np.isnan(measured(np.ones(4), np.zeros(4)).result(resamples=10)["background_effect"]["value"])


@pytest.mark.parametrize(
    ("labels", "variants", "sentence"),
    [
        ([0], {"original": [[1, 0]]}, "give 'original' and others"),
        ([0], {"original": [[1, 0]], "randon": [[1, 0]]}, "give 'original' and others"),
        ([0], {"original": [[1, np.nan]], "random": [[1, 0]]}, "row 0 has a logit that is not finite"),
        ([2], {"original": [[1, 0]], "random": [[1, 0]]}, "there are 2 classes"),
        ([0, 1], {"original": [[1, 0]], "random": [[1, 0]]}, r"give \(N, classes\)"),
    ],
)
def test_what_cannot_be_compared_is_refused(labels, variants, sentence):
    with pytest.raises(ValueError, match=sentence):
        Reliance().update(labels, variants)


def test_other_rows_other_variants_and_single_rows_are_refused():
    reliance = measured([1.0, 2.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="give every batch the same"):
        reliance.update([0], {"original": logits_of([1.0]), "same_class": logits_of([1.0])})
    with pytest.raises(ValueError, match="compared on the same rows"):
        reliance.compared(measured([1.0], [1.0]))
    with pytest.raises(ValueError, match="there are 1 rows"):
        measured([1.0], [1.0]).result()
