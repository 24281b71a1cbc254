"""`evaluate` module over `hf_pgg.metrics.Reliance`: `evaluate.load(module_path("background_reliance"))`."""

import evaluate
from datasets import Value

from hf_pgg.metrics.modules.shared import NUMBERS, XIAO_2021, module_info
from hf_pgg.metrics.reliance import Reliance


class BackgroundReliance(evaluate.Metric):
    """How much the background decides; the card beside this file says how to use it.

    Example:
        >>> metric = BackgroundReliance()
        >>> found = metric.compute(
        ...     references=[0, 0], original=[[2, 0], [1, 0]], same_class=[[2, 0], [1, 0]], random=[[0, 1], [1, 0]],
        ...     random_object=[[0, 2], [0, 1]],
        ... )
        >>> found["flip_rate"], found["bg_gap"]
        (0.5, 0.5)
    """

    def _info(self) -> evaluate.MetricInfo:
        columns = dict.fromkeys(("original", "same_class", "random", "random_object"), NUMBERS)
        return module_info("background_reliance", XIAO_2021, references=Value("int64"), **columns)

    def _compute(
        self,
        references: list[int],
        original: list[list[float]],
        same_class: list[list[float]],
        random: list[list[float]],
        random_object: list[list[float]],
        resamples: int = 1000,
        seed: int = 0,
    ) -> dict[str, float]:
        variants = {"original": original, "same_class": same_class, "random": random, "random_object": random_object}
        reliance = Reliance()
        reliance.update(references, variants)
        found: dict[str, float] = {}
        for name, figure in reliance.result(resamples=resamples, seed=seed).items():
            found |= {name if end == "value" else f"{name}_{end}": value for end, value in figure.items()}
        return found
