"""McNemar's test, without torch, for the gate too."""


def mcnemar(first: int, second: int) -> float:
    """How probable counts so uneven are, if both models were equally good: two-sided and exact (McNemar 1947).

    Args:
        first, second: images that only the one, and only the other, has right.
    """
    from scipy.special import bdtr  # the gate starts without it

    return min(1.0, 2 * float(bdtr(min(first, second), first + second, 0.5))) if first + second else 1.0
