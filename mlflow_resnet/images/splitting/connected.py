"""Connected components."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def equal_pairs(values: Sequence[object]) -> list[tuple[int, int]]:
    """Pairs of indices that connect all equal values."""
    first: dict[object, int] = {}
    return [(first.setdefault(value, index), index) for index, value in enumerate(values)]


def find_components(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """The number of each item's group, where both items of a pair are in one group."""
    ends = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), dtype=bool), (ends[:, 0], ends[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].tolist()
