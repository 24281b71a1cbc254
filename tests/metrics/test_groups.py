"""Group metrics against hand-counted cases, and the `evaluate` module over them."""

import evaluate
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from hf_pgg.metrics import group_accuracies, group_metrics, module_path, wilson_interval
from hf_pgg.metrics.groups import current_names

PREDICTIONS = [0, 0, 1, 1, 1, 0, 1, 1]
REFERENCES = [0, 0, 1, 0, 1, 1, 1, 1]
GROUPS = [0, 0, 1, 1, 2, 2, 3, 3]


def test_groups_counted_by_hand():
    metrics = group_metrics(PREDICTIONS, REFERENCES, GROUPS)
    assert metrics["accuracy"] == 6 / 8
    assert metrics["worst_group_accuracy"] == 0.5 and metrics["worst_group"] == 1
    assert metrics["mean_group_accuracy"] == pytest.approx((1 + 0.5 + 0.5 + 1) / 4)
    assert metrics["balanced_accuracy"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert metrics["group_gap"] == 0.5
    assert group_accuracies(PREDICTIONS, REFERENCES, GROUPS)[2]["count"] == 2


def test_the_mean_over_groups_weighs_groups_not_samples():
    metrics = group_metrics([0] * 99 + [1], [0] * 99 + [0], [0] * 99 + [1])
    assert metrics["accuracy"] == 0.99 and metrics["mean_group_accuracy"] == 0.5


def test_balanced_accuracy_is_the_mean_over_classes_as_everywhere_else():
    rng = np.random.default_rng(0)
    references, predictions, groups = rng.integers(0, 4, 500) // 2, rng.integers(0, 2, 500), rng.integers(0, 5, 500)
    expected = balanced_accuracy_score(references, predictions)
    assert group_metrics(predictions, references, groups)["balanced_accuracy"] == pytest.approx(expected)


def test_stored_results_are_read_by_the_name_that_they_have_today():
    stored = {"validation_balanced_accuracy": 0.7, "accuracy": 0.8}
    assert current_names(stored) == {"validation_mean_group_accuracy": 0.7, "accuracy": 0.8}
    today = group_metrics(PREDICTIONS, REFERENCES, GROUPS)
    assert current_names(today) == today


def test_the_wilson_interval_matches_published_values():
    # Newcombe (1998), table I: 81/263 and 0/20
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0, 0.1611), abs=1e-4)
    rng = np.random.default_rng(0)
    covered = [low <= 0.3 <= high for low, high in (wilson_interval(k, 50) for k in rng.binomial(50, 0.3, 4000))]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("bad", [([], [], []), ([1], [1, 0], [0]), ([[1]], [[1]], [[0]])])
def test_unequal_or_empty_input_is_refused(bad):
    with pytest.raises(ValueError, match="predictions"):
        group_metrics(*bad)


def test_the_evaluate_module_loads_offline_and_agrees():
    metric = evaluate.load(module_path("group_accuracy"))
    for start in (0, 4):
        part = slice(start, start + 4)
        metric.add_batch(predictions=PREDICTIONS[part], references=REFERENCES[part], groups=GROUPS[part])
    assert metric.compute() == group_metrics(PREDICTIONS, REFERENCES, GROUPS)
