"""McNemar's test, without torch, for the gate too."""


def mcnemar(first: int, second: int) -> float:
    """Returns the two-sided p-value of McNemar's exact test (McNemar 1947) for two counts of disagreements.

    Args:
        first, second: images that only the one, and only the other, has right.
    """
    from scipy.special import bdtr  # the gate starts without it

    return min(1.0, 2 * float(bdtr(min(first, second), first + second, 0.5))) if first + second else 1.0
