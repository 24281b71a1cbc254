"""Plans of the pets benchmark: lists of runs."""

from benchmark_pets import Run


def first() -> list[Run]:
    runs = [Run(setting="a", method="unbiased", learning_rate=lr) for lr in (3e-4,)]
    runs += [Run(setting=s, method="plain", learning_rate=lr) for lr in (3e-4,1e-3) for s in "ab"]
    runs += [Run(setting="b", method="guided", alpha=a) for a in (1.0, 10.0)]
    runs += [Run(setting="b", method="guided", alpha=a, head_epochs=2) for a in (10.0,)]
    runs += [Run(setting="b", method="exchange")]
    return runs
