"""The draw for images that belong together: a group is never divided."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np


def split_groups(labels: Sequence[str], groups: Sequence[int], totals: Sequence[int], seed: int) -> list[list[int]]:
    """Sorted indices of disjoint parts of about `totals` images, with the classes about in proportion.

    The largest groups are dealt first, each to the part that lacks most of the group's classes; the seed decides among
    groups of one size. Sizes and proportions are met as well as whole groups allow.

    Args:
        labels: class of each image.
        groups: number of each image's group.
        totals: images wanted in each part; together as many as there are images.
    """
    _, label_numbers = np.unique(np.asarray(labels), return_inverse=True)
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.zeros((len(names), label_numbers.max() + 1))  # images of each class in each group
    np.add.at(counts, (members, label_numbers), 1)
    lacking = np.outer(np.asarray(totals) / len(labels), counts.sum(axis=0))  # images of each class in each part
    part_of = np.zeros(len(names), dtype=int)
    for group in order_groups(counts.sum(axis=1), seed):
        part_of[group] = np.argmax(lacking @ counts[group])
        lacking[part_of[group]] -= counts[group]
    return [np.flatnonzero(part_of[members] == part).tolist() for part in range(len(totals))]


def order_groups(sizes: np.ndarray, seed: int) -> list[int]:
    """Returns the numbers of the groups, largest first, groups of one size in random order."""
    generator = random.Random(seed)
    keys = [generator.random() for _ in sizes]
    return sorted(range(len(sizes)), key=lambda group: (-sizes[group], keys[group]))
