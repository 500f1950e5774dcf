"""Reading the weights of a network from a file, of which nothing is executed.

People have a bare state_dict, or a training's checkpoint with the state_dict somewhere in it, below a name or with
prefixes that wrappers put before its keys. Such a checkpoint also holds objects of the script that wrote it, such as an
argparse.Namespace. torch reads files with `weights_only=True` and refuses objects that it does not know; here inert
objects take their place, whose classes are never imported.
"""

from __future__ import annotations

import pickletools
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file
from torch import Tensor

from mlflow_resnet.errors import WeightsError, join_names
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.text.characters import is_utf8
from mlflow_resnet.model.torch_seams import COMPILED_PREFIX

SUFFIXES = (".pth", ".pt", ".safetensors", ".ckpt", ".bin", ".tar", ".th", ".pkl", ".pickle")
FIRST, SECOND = "layer1.0.conv1.weight", "conv1.weight"  # every ResNet of torchvision's has both
# What training scripts call the network in a checkpoint, and wrappers put before its keys.
USUAL_PARTS = frozenset(
    [*("model", "state_dict", "model_state_dict", "model_state", "net", "network", "weights", "backbone", "encoder")]
    + ["module", COMPILED_PREFIX]
)
MAX_DICT_DEPTH = 4  # dicts in dicts
MOST_NETWORKS = 20  # that are told apart
LEGACY_PICKLES = 4  # of a file before torch 1.6: magic number, protocol, machine, object
# Of Python's standard library, checkpoints hold values of these; whatever else there is has no business in one.
VALUES = frozenset(
    [*("argparse", "collections", "copyreg", "datetime", "decimal", "enum", "fractions", "functools", "logging")]
    + [*("numbers", "pathlib", "re", "types", "uuid", "_codecs.encode")]
    + [f"builtins.{kind}" for kind in ("bool", "bytearray", "complex", "dict", "float", "frozenset", "int", "list")]
    + [f"builtins.{kind}" for kind in ("object", "range", "set", "slice", "str", "tuple")]
)
OLD_LIBRARY = frozenset(["copy_reg", "commands", "exceptions"])  # names of Python 2


class Inert(list):  # torch's reader appends to lists only
    """Takes the place of an object whose class is not known. It does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """What the object held is not needed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


class InertDict:
    """Takes the place of a dict of a kind that is not known."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return OrderedDict()  # torch's reader fills no other


def read_state_dict(path: Path, name: str) -> dict[str, Tensor]:
    """The network's tensors in a .safetensors file, or one of torch.save's. Raises WeightsError if there are none."""
    try:
        if is_safetensors(path):
            if not is_utf8(str(path)):
                raise WeightsError(name, "its path is not UTF-8; rename it.")
            return find_network(load_file(path), name)
        unknown = find_unknown_globals(path)
        refuse_calls(unknown, name)
        loaded = load_inert(path, unknown)
    except FileNotFoundError:
        raise WeightsError(name, "no such file.") from None
    except WeightsError:
        raise
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError and others for damaged files
        problem = f"not a readable state_dict ({one_line(error)}). Save it with torch.save(net.state_dict())."
        raise WeightsError(name, problem) from None
    return find_network(loaded, name)


def is_safetensors(path: Path) -> bool:
    """Whether a file is of that format: by its suffix, or because it begins with a length and then JSON."""
    if path.suffix == ".safetensors":
        return True
    with open(path, "rb") as file:
        return file.read(10)[8:] == b'{"'


def find_unknown_globals(path: Path) -> list[str]:
    """Returns the classes and functions in a torch.save file that torch does not know."""
    with open(path, "rb") as file:
        is_zip = file.read(4) == b"PK\3\4"
        file.seek(0)
        return torch.serialization.get_unsafe_globals_in_checkpoint(file) if is_zip else list(set(legacy_globals(file)))


def refuse_calls(names: list[str], weights: str) -> None:
    """Raises WeightsError for functions of Python's standard library: such a file was made to run something."""
    for name in sorted(names):
        root = name.partition(".")[0]
        if root in (sys.stdlib_module_names | OLD_LIBRARY) and not VALUES.intersection((root, name)):
            raise WeightsError(weights, f"not a readable state_dict (it would call {name}, which no weights need).")


def legacy_globals(file: BinaryIO) -> Iterator[str]:
    """The names of classes and functions in a file that torch before 1.6 wrote."""
    try:
        for _ in range(LEGACY_PICKLES):
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    yield str(argument).replace(" ", ".").replace("__builtin__", "builtins")
    except ValueError:
        raise ValueError("neither a file of torch.save nor of safetensors") from None


def load_inert(path: Path, unknown: list[str]) -> Any:
    """Loads a file with torch, with inert objects of the `unknown` classes.

    Whether an object is filled like a dict shows only when torch comes to it, so that is tried after the other.
    """
    try:
        return load_with(path, unknown, Inert)
    except UnpicklingError:
        return load_with(path, unknown, InertDict)


def load_with(path: Path, unknown: list[str], kind: type) -> Any:
    stand_ins: list[Any] = [(type(name, (choose_stand_in(name) or kind,), {}), name) for name in unknown]
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(path, map_location="cpu", weights_only=True)


def choose_stand_in(name: str) -> type | None:
    """Returns the stand-in for a class by its name; None if the name does not tell."""
    if name.lower().endswith("dict"):
        return InertDict
    return Inert if name.startswith(("numpy.", "collections.")) else None


def find_network(loaded: Any, name: str) -> dict[str, Tensor]:
    """Returns the state_dict in the loaded value, with the network's keys. Raises WeightsError unless there is one."""
    found = dict(networks_in(loaded, set()))
    usual = [place for place in found if USUAL_PARTS.issuperset(filter(None, place.split(".")))]
    if len(found) == 1 or len(usual) == 1:
        return found[usual[0] if usual else next(iter(found))]
    if found:
        places = join_names(place.removesuffix(".") or "itself" for place in usual or found)
        raise WeightsError(name, f"holds several networks: {places}. Save one of them as a state_dict.")
    values = [loaded, *loaded.values()] if isinstance(loaded, Mapping) else [loaded]
    if (pickled := next((each for each in values if isinstance(each, Inert)), None)) is not None:
        raise WeightsError(
            name,
            f"holds a pickled object ({type(pickled).__name__[:80]}) and no state_dict; its classes are not imported. "
            "Where you trust it, load it in Python and save torch.save(network.state_dict(), path).",
        )
    if isinstance(loaded, dict) and loaded and all(isinstance(value, Tensor) for value in loaded.values()):
        return {str(key): value for key, value in loaded.items()}  # of another architecture, which is told
    raise WeightsError(name, "holds no state_dict. Save it with torch.save(network.state_dict(), path).")


def networks_in(
    value: Any, seen: set[int], place: str = "", depth: int = MAX_DICT_DEPTH
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yields the prefix and tensors of each ResNet in nested dicts, such as "state_dict.model."."""
    if not isinstance(value, Mapping) or id(value) in seen:
        return
    seen.add(id(value))
    tensors = {key: tensor for key, tensor in value.items() if isinstance(key, str) and is_plain(tensor)}
    for prefix in [key.removesuffix(FIRST) for key in tensors if key.endswith(FIRST)][:MOST_NETWORKS]:
        if prefix + SECOND in tensors:
            inside = {key: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
            yield place + prefix, {key[len(prefix) :]: tensor for key, tensor in inside.items()}
    for key, inner in value.items() if depth else ():
        yield from networks_in(inner, seen, f"{place}{key}.", depth - 1)


def is_plain(value: Any) -> bool:
    """Returns whether `value` is a contiguous tensor with data."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not (value.is_quantized or value.is_meta)
