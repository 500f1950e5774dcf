"""A training's state on disk, from which it is resumed."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, torch
from torch import Tensor

from mlflow_resnet.errors import CheckpointError, OutputError
from mlflow_resnet.io.atomic import free_bytes, output_errors, sync_to_disk, write_file
from mlflow_resnet.io.console import say
from mlflow_resnet.io.file_names import name_problem, quote_name
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.untrusted import MOST_JSON, parse_fields, read_plain

FACTS_FILE, SUMS_FILE, SUFFIX = "facts.json", "SHA256SUMS", ".safetensors"
PARTIAL = ".partial"
CHECKPOINT_NUMBER = re.compile(r"[0-9]{6,12}")
KEPT = 2


@dataclass(frozen=True)
class State:
    """`tensors`: part -> name -> tensor of any shape, on the CPU. `facts`: what JSON can hold."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    facts: Mapping[str, Any]


def split_state(state: Mapping[str, Any]) -> State:
    """Separates the tensors of nested dictionaries from what JSON can hold.

    Those of `state["trainer"]["optimizer"]` become the part `trainer.optimizer`.
    """
    parts: dict[str, dict[str, Tensor]] = {}

    def take_tensors(found: Mapping[str, Any], path: str) -> dict[str, Any]:
        own = {name: value.detach().cpu() for name, value in found.items() if isinstance(value, Tensor)}
        parts.update({path: own} if own else {})
        others = {name: value for name, value in found.items() if name not in own}
        return {
            name: take_tensors(value, f"{path}.{name}" if path else name) if isinstance(value, dict) else value
            for name, value in others.items()
        }

    return State(parts, take_tensors(state, ""))


def join_state(state: State) -> dict[str, Any]:
    """Undoes `split_state`."""
    joined = copy.deepcopy(dict(state.facts))
    for part, tensors in state.tensors.items():
        place = joined
        for name in part.split("."):
            place = place[name]
        place.update(tensors)
    return joined


class CheckpointFolder:
    """Numbered checkpoints in a folder: the newest, and the one before it in case that the newest is damaged.

    A checkpoint is a folder with a safetensors file for each part of the tensors, a JSON file, and the SHA-256 of
    each in the format of `sha256sum -c`. It gets its name when everything in it is on the disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held: set[int] = set()  # checkpoints that are being read, and so are not removed

    def save(self, state: State) -> int:
        """Writes a new checkpoint, then removes the oldest. Returns the number of the new one.

        Raises:
            OutputError: if it cannot be written; the others stay as they were.
        """
        numbers = self.numbers()
        new = numbers[-1] + 1 if numbers else 1
        with self.place(new) as partial:
            write_checkpoint(state, partial)
        for number in numbers[: 1 - KEPT]:
            if number not in self.held:
                shutil.rmtree(self.locate(number), ignore_errors=True)
        return new

    @contextmanager
    def place(self, number: int) -> Iterator[Path]:
        """Yields an empty folder, which becomes the checkpoint of that number when the block ends.

        Raises:
            OutputError: if it cannot be written.
        """
        partial = self.path / PARTIAL
        with output_errors(self.path):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            try:
                yield partial
                os.rename(partial, self.locate(number))
                sync_to_disk(self.path)
            except OSError:
                shutil.rmtree(partial, ignore_errors=True)  # its place on the disk is needed
                raise

    def load(self) -> State | None:
        """The newest checkpoint that is whole; None if there is none at all.

        Raises:
            CheckpointError: if there are some, but all are damaged.
        """
        numbers = self.numbers()
        for number in reversed(numbers):
            folder = self.locate(number)
            try:
                return read_checkpoint(folder)
            except ValueError as error:
                say(f"checkpoint {folder} is damaged ({one_line(error)}), so the one before it is taken")
        if numbers:
            what = f"none of its {len(numbers)} checkpoints is whole. To begin anew, give --resume never"
            raise CheckpointError(self.path, what)
        return None

    def clear(self, but: int = 0) -> None:
        """Removes all checkpoints `but` the newest ones."""
        numbers = self.numbers()
        for number in numbers[: len(numbers) - but]:
            shutil.rmtree(self.locate(number), ignore_errors=True)
        shutil.rmtree(self.path / PARTIAL, ignore_errors=True)

    def check_room(self, size: int, count: int, models: int = 0) -> None:
        """Raises OutputError if the disk has no room for `count` checkpoints of `size` bytes, those here included.

        Args:
            models: bytes that are needed besides, for models.
        """
        present = sum(path.lstat().st_size for number in self.numbers() for path in self.locate(number).iterdir())
        needed, free = count * size - present + models, free_bytes(self.path)
        if free < needed:
            besides = f" and {models} bytes of models" if models else ""
            what = f"{free} bytes are free, but {count} checkpoints of {size} bytes{besides} need {needed} more"
            remedy = "Make room, or give another --checkpoint-dir or --checkpoint-minutes 0"
            raise OutputError(self.path, f"{what}. {remedy}")

    def numbers(self) -> list[int]:
        """Returns the numbers of the checkpoints, in order."""
        names = (path.name for path in self.path.glob("[0-9]*") if path.is_dir() and not path.is_symlink())
        return sorted(int(name) for name in names if CHECKPOINT_NUMBER.fullmatch(name))

    def locate(self, number: int) -> Path:
        return self.path / f"{number:06d}"


def write_checkpoint(state: State, folder: Path) -> None:
    """Writes the files of a checkpoint to the disk, not only to the system's cache."""
    sums = {}
    for name, content in contents(state):
        write_file(folder / name, content)
        sums[name] = hashlib.sha256(content).hexdigest()
    write_file(folder / SUMS_FILE, "".join(f"{digest}  {name}\n" for name, digest in sums.items()).encode())
    sync_to_disk(folder)


def contents(state: State) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file; only one is in memory at a time."""
    for part, tensors in state.tensors.items():
        yield part + SUFFIX, torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    yield FACTS_FILE, json.dumps(state.facts).encode()


def read_checkpoint(folder: Path) -> State:
    """Reads a checkpoint.

    Raises:
        ValueError: if a file is missing, or is not what was written.
    """
    try:
        files = {}
        for line in read_plain(folder / SUMS_FILE, MOST_JSON).decode().splitlines():
            digest, name = line.split("  ")
            if "/" in name or name_problem(name):
                raise ValueError(f"{quote_name(name)} is no name of one of its files")
            files[name] = read_plain(folder / name, MOST_JSON if name == FACTS_FILE else None)
            if hashlib.sha256(files[name]).hexdigest() != digest:
                raise ValueError(f"{name} is not what was written")
        facts = parse_fields(files.pop(FACTS_FILE))
        return State({name.removesuffix(SUFFIX): torch.load(content) for name, content in files.items()}, facts)
    except (OSError, KeyError, RecursionError, SafetensorError) as error:
        raise ValueError(one_line(error)) from None
