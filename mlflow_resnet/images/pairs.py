"""Pairs of images that are equal or look alike, and the groups that they connect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

RADIUS = 4  # bits of 64: re-encoded and resized copies differ in 0 to 4
BANDS = RADIUS + 1  # two hashes within the radius agree in at least one of this many bands
LARGE = 256  # images that share a band, above which only neighbors in order are compared


def equal_pairs(values: Sequence[object]) -> list[tuple[int, int]]:
    """Pairs of indices that connect all equal values."""
    first: dict[object, int] = {}
    return [(first.setdefault(value, index), index) for index, value in enumerate(values)]


def find_components(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """The number of each item's group, where both items of a pair are in one group."""
    ends = np.array(list(pairs), dtype=np.int32).reshape(-1, 2)  # of SciPy 1.11 the search takes no other
    graph = coo_array((np.ones(len(ends), dtype=bool), (ends[:, 0], ends[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].tolist()


def look_alike_pairs(looks: Sequence[int | None]) -> list[tuple[int, int]]:
    """Pairs of indices of perceptual hashes that differ in at most RADIUS bits; `looks[i]` None is like nothing.

    Of many equal hashes only neighbors are paired, which connects them all.
    """
    known = np.array([index for index, look in enumerate(looks) if look is not None], dtype=np.int64)
    hashes = np.array([look for look in looks if look is not None], dtype=np.uint64)
    pairs: set[tuple[int, int]] = set()
    edges = np.linspace(0, 64, BANDS + 1).astype(int)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        band = hashes >> np.uint64(low) & np.uint64(2 ** int(high - low) - 1)
        order = np.lexsort((hashes, band))
        for bucket in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
            if len(bucket) > LARGE:
                firsts, seconds = bucket[:-1], bucket[1:]
            else:
                rows, columns = np.triu_indices(len(bucket), k=1)
                firsts, seconds = bucket[rows], bucket[columns]
            differences = (hashes[firsts] ^ hashes[seconds]).view(np.uint8).reshape(-1, 8)
            near = np.unpackbits(differences, axis=1).sum(axis=1) <= RADIUS
            found = zip(firsts[near].tolist(), seconds[near].tolist(), strict=True)
            pairs.update((min(ends), max(ends)) for ends in found)
    return [(int(known[first]), int(known[second])) for first, second in sorted(pairs)]
