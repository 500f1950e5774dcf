"""Interprets folders: classes, parts such as train and valid, or wrappers of these."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from mlflow_resnet.errors import join_names, printable

TRAIN, VAL, TEST = "train", "val", "test"
PARTS = {"train": TRAIN, "training": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "dev": VAL}
PARTS |= {"test": TEST, "testing": TEST}
PART_OPTIONS = {TRAIN: "--train-dir", VAL: "--val-dir", TEST: "--test-dir"}


class Layout:
    """The tree of folders and the number of images in each. Folders are relative, with "/"; the root is "".

    Attributes:
        folders: those right in a folder that have images at any depth, sorted.
        images: how many are right in a folder.
        total: how many are in it at any depth.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.images = Counter(name.rpartition("/")[0] for name in names)
        self.total = Counter[str]()
        inside = defaultdict[str, set[str]](set)
        for folder, images in self.images.items():
            self.total[folder] += images
            while folder:
                inner, folder = folder, folder.rpartition("/")[0]
                inside[folder].add(inner)
                self.total[folder] += images
        self.folders = defaultdict[str, list[str]](list, {folder: sorted(inner) for folder, inner in inside.items()})

    def unwrap(self, folder: str = "") -> str:
        """`folder`, or the one in it that the class folders are in: folders that only wrap that one are left behind.

        A few stray images beside it do not matter.
        """
        while len(self.folders[folder]) == 1:
            only = self.folders[folder][0]
            deeper = self.total[only] - self.images[only]
            if deeper <= self.images[only] or self.images[folder] >= self.total[only]:
                break
            folder = only
        return folder

    def labels(self, folder: str) -> set[str]:
        """Returns the names of the class folders in `folder`."""
        return {last_part(each) for each in self.folders[self.unwrap(folder)]}

    def parts(self, folder: str = "") -> dict[str, str]:
        """The folders right in `folder` that are parts of a data set -> which part; empty if they are classes.

        They are parts if all are called so, or if some that are hold the same classes.
        """
        named = {each: part for each in self.folders[folder] if (part := find_part(each))}
        if len(set(named.values())) < 2:
            return {}
        holding = [each for each in named if self.labels(each)]
        if len(named) == len(self.folders[folder]) and (holding or (not folder and all(map(is_one_word, named)))):
            return named
        seen = Counter(label for each in holding for label in self.labels(each))
        return named if any(count > 1 for count in seen.values()) else {}

    def problem(self, source: str) -> str:
        """Returns why the folders in `source` cannot be its classes, and a remedy; empty if they can."""
        base = self.unwrap()
        if parts := self.parts(base):
            names = quote_names(each.removeprefix(f"{base}/") for each in parts)
            return f"its folders {names} are parts of a data set, and no classes. {self.options(source, parts)}"
        top = self.folders[""]
        classes = {last_part(each) for each in top}
        for each in top:
            inner = self.labels(each)
            is_copy = len(inner) > 1 and inner < classes and not self.images[each]
            if is_copy or (len(top) > 1 and self.holds_parts(each) and not all(map(self.holds_parts, top))):
                classes_in = quote_names(sorted(inner))
                what = f"its folder {quote_names([each])} holds a data set of its own, of {classes_in}, and no class"
                alone = printable(join_source(source, each))
                return f"{what}. Move it out of {printable(source)}, or give {alone} alone"
        return ""

    def holds_parts(self, folder: str) -> bool:
        return any(map(self.labels, self.parts(folder)))

    def options(self, source: str, parts: dict[str, str]) -> str:
        """The options that parts of a data set are given with: the largest folder of each that has class folders."""
        usable = {parts[each]: each for each in sorted(parts, key=self.total.__getitem__) if self.labels(each)}
        if not usable:
            return "They hold no class folders: put each class's images in a folder named after the class"
        places = {part: shlex.quote(join_source(source, self.unwrap(each))) for part, each in usable.items()}
        given = " ".join(f"{PART_OPTIONS[part]} {places[part]}" for part in PART_OPTIONS if part in places)
        one = places.get(TEST) or places.get(VAL) or places[TRAIN]
        text = f"Train with {given if TRAIN in places else f'--train-dir {one}'}; elsewhere give one of them, as {one}"
        if bare := [each for each in parts if not self.labels(each)]:
            text += f". {quote_names(bare)} has no class folders: it can be scored"
        return text

    def advice(self, source: str) -> str:
        """Returns a clause about unusual folders; empty if there are none."""
        if base := self.unwrap():
            where = printable(join_source(source, base))
            names = quote_names(sorted(self.labels(base)))
            return f"all are in one folder; if {names} in it are the classes, give {where}"
        top = self.folders[""]
        shared = set.intersection(*(set(map(last_part, self.folders[each])) for each in top)) if top else set()
        if len(top) < 2 or len(shared) < 2 or any(self.images[each] for each in top):
            return ""
        names = quote_names(sorted(shared))
        if all(map(find_part, shared)):
            return f"every class holds folders {names}, which are taken together"
        return f"{quote_names(top)} all hold the folders {names}; if those are the classes, put them together"


def find_part(folder: str) -> str:
    """Returns the part of a data set that a folder is named after; empty if none, or more than one."""
    found = {PARTS[word] for word in split_words(folder) if word in PARTS}
    return found.pop() if len(found) == 1 else ""


def name_data_set(source: str) -> str:
    """Returns the last part of a path or URI that tells a data set: `flowers` for `flowers/train`."""
    path = Path(os.path.abspath(source))
    while find_part(path.name) and is_one_word(path.name) and path.parent.name:
        path = path.parent
    return printable(path.name)


def is_one_word(folder: str) -> bool:
    return len(split_words(folder)) == 1


def split_words(folder: str) -> list[str]:
    return re.findall("[a-z]+", last_part(folder).casefold())


def last_part(folder: str) -> str:
    return folder.rpartition("/")[2]


def join_source(source: str, folder: str) -> str:
    return os.path.join(source, folder) if folder else source


def quote_names(names: Iterable[str]) -> str:
    return join_names(repr(printable(name)) for name in names)
