"""Plans of the pets benchmark: lists of runs."""

from benchmark_pets import Run


def first() -> list[Run]:
    runs = [Run(setting="b", method="guided", alpha=a) for a in (1.0, 10.0)]
    runs += [Run(setting="b", method="plain")]
    runs += [Run(setting="b", method="guided", alpha=a, head_epochs=2) for a in (10.0,)]
    runs += [Run(setting="b", method="exchange"), Run(setting="a", method="guided", alpha=10.0)]
    return runs
