"""Findings about a set of images, from the facts about each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from mlflow_resnet.errors import join_names, printable
from mlflow_resnet.images.audit.image_facts import ImageFacts
from mlflow_resnet.images.layout import TRAIN
from mlflow_resnet.images.pairs import find_components, look_alike_pairs
from mlflow_resnet.options.audit import FINDINGS

TINY_CLASS = 10  # images
IMBALANCE = 10  # times
BLANK_CONTRAST = 2.0  # gray levels
DARK, BRIGHT = 20.0, 240.0  # gray levels
BLURRY = 10.0  # variance of the Laplacian
LEGIBLE = 64  # pixels of the shorter edge, below which neither sharpness nor looks mean anything
ODD_ASPECT = 3.0
SHOWN_GROUPS = 5  # groups in a sentence


@dataclass(frozen=True)
class AuditedImage:
    """An image and the facts about it."""

    part: str
    name: str
    label: str
    path: str
    facts: ImageFacts

    def __str__(self) -> str:
        return f"{self.part}/{printable(self.name)}"


Group = tuple[AuditedImage, ...]


@dataclass(frozen=True)
class Finding:
    """Images of which something is wrong, in groups that belong together."""

    kind: str
    groups: tuple[Group, ...]

    @property
    def images(self) -> int:
        return sum(map(len, self.groups))

    def __str__(self) -> str:
        if self.kind in ("tiny_class", "imbalance"):
            names = [f"{group[0].label} ({len(group)})" for group in self.groups]
        else:
            reason = self.kind == "unreadable"
            names = [" = ".join(f"{i} ({i.facts.problem})" if reason else str(i) for i in g) for g in self.groups]
        return f"{self.kind}: {self.images} images {FINDINGS[self.kind]}: {join_names(names, SHOWN_GROUPS)}"


def findings(images: Sequence[AuditedImage]) -> list[Finding]:
    """All findings of all kinds, in the order of FINDINGS."""
    groups: dict[str, list[Group]] = defaultdict(list)
    for kind, group in find_by_kind(images):
        groups[kind].append(group)
    return [Finding(kind, tuple(groups[kind])) for kind in FINDINGS if groups[kind]]


def find_by_kind(images: Sequence[AuditedImage]) -> Iterator[tuple[str, Group]]:
    yield from (("unreadable", (image,)) for image in images if image.facts.problem)
    readable = [image for image in images if not image.facts.problem]
    same = group_by(readable, lambda image: image.facts.pixels)
    for group in same:
        if len({image.part for image in group}) > 1:
            yield "leak", group
        if len({image.label for image in group}) > 1:
            yield "conflict", group
        if len(group) > 1 and len({(image.part, image.label) for image in group}) == 1:
            yield "duplicate", group
    yield from near_copies(same)
    yield from small_classes([image for image in readable if image.part == TRAIN])
    yield from ((kind, (image,)) for image in readable for kind in classify_picture(image.facts))


def group_by(images: Iterable[AuditedImage], key: Callable[[AuditedImage], Hashable]) -> list[Group]:
    groups: dict[Hashable, list[AuditedImage]] = defaultdict(list)
    for image in images:
        groups[key(image)].append(image)
    return [tuple(group) for group in groups.values()]


def near_copies(same: Sequence[Group]) -> Iterator[tuple[str, Group]]:
    """Groups of pictures that look alike, but have not the same pixels. `same` are those that have."""
    looks = []
    for first, *_ in same:
        means_anything = is_legible(first.facts) and first.facts.contrast >= BLANK_CONTRAST
        looks.append(first.facts.look if means_anything else None)
    numbers = find_components(len(same), look_alike_pairs(looks))
    members: dict[int, list[Group]] = defaultdict(list)
    for number, group in zip(numbers, same, strict=True):
        members[number].append(group)
    for alike in members.values():
        if len(alike) > 1:
            first_of_each = tuple(group[0] for group in alike)
            parts = {image.part for group in alike for image in group}
            yield ("near_leak" if len(parts) > 1 else "near_duplicate"), first_of_each


def is_legible(facts: ImageFacts) -> bool:
    return min(facts.width, facts.height) >= LEGIBLE


def small_classes(train: Sequence[AuditedImage]) -> Iterator[tuple[str, Group]]:
    classes = group_by(train, lambda image: image.label)
    for group in classes:
        if len(group) < TINY_CLASS:
            yield "tiny_class", group
        elif len(group) * IMBALANCE < max(map(len, classes)):
            yield "imbalance", group


def classify_picture(facts: ImageFacts) -> Iterator[str]:
    """Yields the kinds of findings about a single picture."""
    if facts.contrast < BLANK_CONTRAST:
        yield "blank"
    elif facts.brightness < DARK:
        yield "dark"
    elif facts.brightness > BRIGHT:
        yield "bright"
    elif facts.sharpness < BLURRY and is_legible(facts):
        yield "blurry"
    if max(facts.width, facts.height) > ODD_ASPECT * min(facts.width, facts.height):
        yield "odd_aspect"
