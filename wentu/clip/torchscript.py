"""The tensors of a TorchScript archive, which is how OpenAI publishes its CLIP; no code is run.

``torch.jit.load`` cannot be used on files of strangers: it runs their ``__setstate__``, and
TorchScript has operators that write files (``torch.save``, ``torch.from_file``). So the few opcodes
of pickle that TorchScript writes are read here: modules become plain objects, tensors are cut out
of the archive's records, and every other name that a file mentions stays a name.
"""

from __future__ import annotations

import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_DTYPES = {
    "torch HalfStorage": "float16",
    "torch BFloat16Storage": "bfloat16",
    "torch FloatStorage": "float32",
    "torch DoubleStorage": "float64",
    "torch LongStorage": "int64",
    "torch IntStorage": "int32",
    "torch ShortStorage": "int16",
    "torch CharStorage": "int8",
    "torch ByteStorage": "uint8",
    "torch BoolStorage": "bool",
}
_VALUES = ("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = ("PROTO", "STOP")


class _Module:
    """An object of a class that the archive's code defines."""

    state: object = None


@dataclass(frozen=True)
class _Name:
    """A class or function that the file mentions."""

    name: str


@dataclass(frozen=True)
class _Tensor:
    """Arguments of ``torch._utils._rebuild_tensor_v2``: storage, offset, size, stride, …"""

    arguments: tuple[Any, ...]


def is_torchscript(archive: zipfile.ZipFile) -> bool:
    """Is it an archive of ``torch.jit.save``? Those hold code beside the tensors."""
    return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name; any Exception where the archive is not what torch writes."""
    tensors: dict[str, torch.Tensor] = {}
    storages: dict[str, torch.Tensor] = {}
    with zipfile.ZipFile(path) as archive:
        root = next(n for n in archive.namelist() if n.endswith("/constants.pkl"))
        folder = root.removesuffix("constants.pkl")
        top = _interpret(archive.read(f"{folder}data.pkl"))
        waiting, seen = [("", top)], {id(top)}
        while waiting:
            prefix, module = waiting.pop()
            state = module.state if isinstance(module, _Module) else None
            for name, value in state.items() if isinstance(state, dict) else ():
                if isinstance(value, _Tensor):
                    tensors[f"{prefix}{name}"] = _tensor(value, archive, folder, storages)
                elif isinstance(value, _Module) and id(value) not in seen:  # none twice, no circles
                    seen.add(id(value))
                    waiting.append((f"{prefix}{name}.", value))
    return tensors


def _tensor(
    value: _Tensor, archive: zipfile.ZipFile, folder: str, storages: dict[str, torch.Tensor]
) -> torch.Tensor:
    """A view of its storage, which must have the size that is said; as_strided checks the rest."""
    import torch

    storage, offset, size, stride = value.arguments[:4]
    word, kind, key, _, count = storage
    if word != "storage" or not isinstance(kind, _Name):
        raise ValueError("a tensor without a storage")
    dtype = getattr(torch, _DTYPES[kind.name])
    if f"{key}" not in storages:
        data = bytearray(archive.read(f"{folder}data/{key}"))
        storages[f"{key}"] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0)
    flat = storages[f"{key}"]
    if flat.numel() != count or (count and flat.dtype != dtype):
        raise ValueError(f"the storage {key} has not the size that is said")
    return flat.as_strided(size, stride, offset)


def _interpret(data: bytes) -> Any:
    """The object in a ``data.pkl``; ValueError on an opcode that TorchScript does not write."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    marks: list[int] = []
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("TUPLE", "SETITEMS", "APPENDS"):
            start = marks.pop()
            items = stack[start:]
            del stack[start:]
            _collect(name, stack, items)
        elif name in ("SETITEM", "APPEND"):
            count = 2 if name == "SETITEM" else 1
            items = stack[-count:]
            del stack[-count:]
            _collect(f"{name}S", stack, items)
        elif name not in _IGNORED:
            _push(name, argument, stack)
    (result,) = stack
    return result


def _collect(name: str, stack: list[Any], items: list[Any]) -> None:
    """Put the items where they belong: into a new tuple, or the dictionary or list below."""
    if name == "TUPLE":
        stack.append(tuple(items))
    elif name == "APPENDS":
        stack[-1].extend(items)
    else:
        stack[-1].update(zip(items[::2], items[1::2], strict=True))


def _push(name: str, argument: Any, stack: list[Any]) -> None:
    """One opcode that leaves a value on the stack."""
    if name in _VALUES:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in ("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"):
        stack.append({"EMPTY_TUPLE": (), "EMPTY_LIST": [], "EMPTY_DICT": {}}[name])
    elif name in _TUPLES:
        items = stack[-_TUPLES[name] :]
        del stack[-_TUPLES[name] :]
        stack.append(tuple(items))
    elif name == "GLOBAL":
        stack.append(_Name(argument))
    elif name == "NEWOBJ":
        del stack[-2:]
        stack.append(_Module())
    elif name == "BUILD":
        state = stack.pop()
        stack[-1].state = state
    elif name == "REDUCE":
        arguments, called = stack.pop(), stack.pop()
        known = called == _Name("torch._utils _rebuild_tensor_v2")
        stack.append(_Tensor(arguments) if known else {} if not arguments else arguments[0])
    elif name != "BINPERSID":  # that one leaves the storage's description where it is
        raise ValueError(f"the opcode {name}")
