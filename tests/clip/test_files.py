"""Files of weights: nothing in them runs, and damaged ones end in one sentence, soon and small."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import resource
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from tests.clip.makers import SMALL, clip_config, openai_model, save_torchscript
from tests.fuzz import mutations, survives
from wentu.clip import checkpoint, files
from wentu.clip.model import Architecture, build
from wentu.clip.torchscript import read_torchscript
from wentu.errors import FormatError, InputError, WentuError

MINI: dict[str, Any] = SMALL | {
    "embed_dim": 4,
    "image_resolution": 8,
    "vision_layers": 1,
    "vision_width": 8,
    "vision_patch_size": 4,
    "vision_head_width": 4,
    "vocab_size": 6,
    "text_hidden_size": 4,
    "text_intermediate_size": 4,
    "text_max_position_embeddings": 6,
    "text_num_hidden_layers": 1,
}
"""So small that most of a file is names and sizes, which is where damage tells."""
ARCH = Architecture(name="mini", config=MINI)


def mini() -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = build(ARCH).state_dict()
    return state


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Damaged files make torch warn on the way to its error; users see one sentence."""
    with warnings.catch_warnings():
        yield


# --- files that are well ----------------------------------------------------------------------


def test_torchscript_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    model = openai_model(clip_config())
    save_torchscript(model, tmp_path / "a.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its own reader deprecated
        expected = torch.jit.load(str(tmp_path / "a.pt")).state_dict()
    found, notes = files.read_weights(tmp_path / "a.pt")
    assert notes == {}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_torchscript_of_every_type_and_shape(tmp_path: Path) -> None:
    tensors = {
        "a_half": torch.arange(6.0).half().reshape(2, 3),
        "a_brain": torch.arange(6.0).bfloat16(),
        "a_double": torch.arange(6.0).double().reshape(3, 2).t(),
        "a_long": torch.tensor(7),
        "a_int": torch.arange(5, dtype=torch.int32)[1:4],
        "a_short": torch.arange(2, dtype=torch.int16),
        "a_char": torch.arange(2, dtype=torch.int8),
        "a_byte": torch.arange(2, dtype=torch.uint8),
        "a_bool": torch.tensor([True, False]),
        "a_empty": torch.zeros(0, 3),
    }
    module = torch.nn.Module()
    module.inner = torch.nn.Module()
    for name, tensor in tensors.items():
        module.inner.register_buffer(name, tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its own compiler deprecated
        torch.jit.script(module).save(str(tmp_path / "a.pt"))
    found = read_torchscript(tmp_path / "a.pt")
    assert set(found) == {f"inner.{name}" for name in tensors}
    for name, tensor in tensors.items():
        assert torch.equal(found[f"inner.{name}"], tensor), name


def test_a_folder_in_parts(tmp_path: Path) -> None:
    state = mini()
    names = sorted(state)
    index: dict[str, str] = {}
    for part, chosen in (("a-1.safetensors", names[::2]), ("a-2.safetensors", names[1::2])):
        save_file({name: state[name].contiguous() for name in chosen}, tmp_path / part)
        index |= dict.fromkeys(chosen, part)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    found, _ = files.read_weights(tmp_path)
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    (tmp_path / "a-2.safetensors").unlink()
    with pytest.raises(InputError, match=r"a-2\.safetensors of the weights is missing"):
        files.read_weights(tmp_path)


# --- code -------------------------------------------------------------------------------------


class Malicious:
    """Unpickled by the standard library, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_code_in_a_file_is_refused_and_never_runs(kind: str, suffix: str, tmp_path: Path) -> None:
    path, mark = tmp_path / f"bad{suffix}", tmp_path / "mark"
    value = {"state_dict": mini(), "args": Malicious(mark)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(value["args"]))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(FormatError, match=rf"bad\{suffix} cannot be read safely as a checkpoint"):
        checkpoint.load(path)
    assert not mark.exists()


def test_code_in_a_torchscript_archive_is_not_run(tmp_path: Path) -> None:
    """torch.jit.load would: its operators write files while a module is loaded."""

    class Writing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2))

        @torch.jit.export
        def __getstate__(self) -> tuple[torch.Tensor, str, bool]:
            return self.weight, "mark", self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
            self.weight = state[0]
            self.training = state[2]
            torch.save(state[0], state[1])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    path = tmp_path / "a.pt"
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")  # torch calls its own compiler deprecated
        patch.chdir(tmp_path)
        torch.jit.script(Writing()).save(str(path))
        torch.jit.load(str(path))
        assert (tmp_path / "mark").exists()  # so it is a file that does harm
        (tmp_path / "mark").unlink()
        with pytest.raises(FormatError, match="none of the known models has these tensors"):
            checkpoint.load(path)
    assert not (tmp_path / "mark").exists()


# --- paths ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("../secret.safetensors", "/etc/passwd.bin", "..", ".", "", "a/../../secret.bin"),
        *("secret", "a\0.bin", "a\n.bin", "model.safetensors.index.json", 3, None, ["a.bin"]),
    ],
)
def test_an_index_names_files_beside_it_only(name: object, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (tmp_path / "secret.safetensors", folder / "a.safetensors"):
        save_file({"x": torch.ones(1)}, place)
    index = {"weight_map": {"a": "a.safetensors", "b": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match="is not the name of a file beside it"):
        files.read_weights(folder)


@pytest.mark.parametrize("index", [[], {}, {"weight_map": []}, {"weight_map": {}}, "x", None])
def test_an_index_that_is_none_is_refused(index: object, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match="has no weight_map"):
        files.read_weights(tmp_path)


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(InputError, match="holds no weights"):
        files.read_weights(tmp_path)
    index = {"weight_map": {"x": "a.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"a\.safetensors of the weights is missing"):
        files.read_weights(tmp_path)


# --- damage -----------------------------------------------------------------------------------

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", "")


def written() -> dict[str, bytes]:
    """The same small weights in every kind of file."""
    state = {name: tensor.contiguous() for name, tensor in mini().items()}
    note = checkpoint.Checkpoint(architecture=ARCH).note()
    whole = {"state_dict": state, "epoch": 1, "optimizer": {"lr": [0.1]}, "wentu": note}
    kinds = {}
    for kind in ("zip", "legacy"):
        file = io.BytesIO()
        torch.save(whole, file, _use_new_zipfile_serialization=kind == "zip")
        kinds[kind] = file.getvalue()
    kinds["safetensors"] = save(state, {"wentu": json.dumps(note)})
    bare = torch.nn.Module()
    for name, tensor in state.items():
        bare.register_buffer(name.replace(".", "_"), tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its own compiler deprecated
        kinds["torchscript"] = torch.jit.script(bare).save_to_buffer()
    return kinds


@pytest.fixture(scope="module")
def seeds() -> dict[str, bytes]:
    return written()


KINDS = ("zip", "legacy", "safetensors", "torchscript")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", KINDS)
def test_cut_files_of_every_kind(
    kind: str, suffix: str, seeds: dict[str, bytes], tmp_path: Path
) -> None:
    """At 40 places; a file under a wrong name is refused, too, or read."""
    path, data = tmp_path / f"a{suffix}", seeds[kind]
    for end in range(0, len(data), len(data) // 40):
        path.write_bytes(data[:end])
        with pytest.raises(WentuError):
            checkpoint.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_noise_of_every_name(suffix: str, tmp_path: Path) -> None:
    path, rng = tmp_path / f"a{suffix}", random.Random(1)
    starts = [b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02}q\x00.", struct.pack("<Q", 100) + b"{"]
    starts += [b"not weights", b"{}", struct.pack("<Q", 2**63), b"\x1f\x8b", b"\x93NUMPY"]
    for start in starts:
        for size in (0, 1, 100, 5000):
            path.write_bytes(start + rng.randbytes(size))
            with pytest.raises(WentuError):
                checkpoint.load(path)


def repacked(data: bytes, change: Callable[[bytes], bytes], compress: bool = False) -> bytes:
    """A zip archive with another data.pkl, its checksum right."""
    result = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(result, "w", method) as new:
        for record in old.infolist():
            content = old.read(record)
            name = record.filename
            new.writestr(name, change(content) if name.endswith("/data.pkl") else content)
    return result.getvalue()


def test_what_the_damage_is_done_to_is_well(seeds: dict[str, bytes], tmp_path: Path) -> None:
    for kind, data in seeds.items():
        path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pt")
        again = repacked(data, bytes) if kind in ("zip", "torchscript") else data
        for content in (data, again):
            path.write_bytes(content)
            assert len(files.read_weights(path)[0]) > 3
            if kind != "torchscript":
                load_and_build(path)


@pytest.mark.parametrize("kind", ["zip", "torchscript"])
def test_files_from_a_gpu(kind: str, seeds: dict[str, bytes], tmp_path: Path) -> None:
    """As OpenAI's are: their storages lie on cuda:0."""
    expected = tmp_path / "cpu.pt"
    expected.write_bytes(seeds[kind])

    def moved(content: bytes) -> bytes:
        assert b"X\x03\0\0\0cpu" in content
        return content.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0")

    (tmp_path / "cuda.pt").write_bytes(repacked(seeds[kind], moved))
    found = [files.read_weights(tmp_path / name)[0] for name in ("cpu.pt", "cuda.pt")]
    ours, theirs = (each.get("state_dict", each) for each in found)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def refused(path: Path, sentence: str) -> None:
    """By one sentence, and without the memory that the file speaks of."""
    before = most_memory()
    with pytest.raises(FormatError, match=sentence):
        checkpoint.load(path).model()
    assert most_memory() - before < 100e6


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["repeated", "sparse", "sparse rows", "shape only", "empty"])
def test_tensors_that_are_larger_than_their_file(kind: str, zipped: bool, tmp_path: Path) -> None:
    """A terabyte of words, in files of some kilobytes."""
    huge = 2**40
    state: dict[str, Any] = mini()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its sparse rows a beta
        state["bert.embeddings.word_embeddings.weight"] = {
            "repeated": lambda: torch.zeros(1, 1).expand(huge, 4),
            "sparse": lambda: torch.sparse_coo_tensor([[0], [0]], [1.0], (huge, 4)),
            "sparse rows": lambda: torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, huge)),
            "shape only": lambda: torch.zeros(huge, 4, device="meta"),
            "empty": lambda: torch.zeros(huge, 0),
        }[kind]()
        torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "a.pt", r"is no plain one|cannot be read safely")


def test_numbers_of_positions_may_be_a_view(tmp_path: Path) -> None:
    state = mini() | {"bert.embeddings.position_ids": torch.arange(6).expand(1, -1)}
    note = checkpoint.Checkpoint(architecture=ARCH).note()
    torch.save({"state_dict": state, "wentu": note}, tmp_path / "a.pt")
    checkpoint.load(tmp_path / "a.pt").model()


@pytest.mark.parametrize("kind", ["zip", "torchscript"])
def test_archives_that_grow_are_refused(kind: str, seeds: dict[str, bytes], tmp_path: Path) -> None:
    bomb = io.BytesIO(repacked(seeds[kind], bytes, compress=True))
    with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/999", bytes(50_000_000))
    (tmp_path / "a.pt").write_bytes(bomb.getvalue())
    refused(tmp_path / "a.pt", "its records are said to be larger than the file")


@pytest.mark.parametrize("kind", KINDS[:2] + KINDS[3:])
@pytest.mark.parametrize("size", [2**20, 2**34, 2**45, 2**62])
def test_storages_that_are_said_to_be_huge(
    kind: str, size: int, seeds: dict[str, bytes], tmp_path: Path
) -> None:
    """Each pickled 24, the numbers of the words, made larger: of the storage, or of the tensor."""
    number = b"\x8a\x08" + struct.pack("<q", size)
    whole = seeds[kind]
    inside = whole
    if kind != "legacy":
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            inside = archive.read(next(n for n in archive.namelist() if n.endswith("/data.pkl")))
    places = [at for at in range(len(inside)) if inside[at : at + 2] == b"K\x18"]
    assert places
    for at in places:
        broken = inside[:at] + number + inside[at + 2 :]
        if kind != "legacy":
            broken = repacked(whole, lambda _, broken=broken: broken)
        (tmp_path / "a.pt").write_bytes(broken)
        refused(tmp_path / "a.pt", "cannot be read safely|is no plain one|none of the known models")


def test_a_torchscript_pickle_of_many_names_and_circles(
    seeds: dict[str, bytes], tmp_path: Path
) -> None:
    """2^40 names for one tensor; a module in itself; a memo of four billion places."""
    start = b"c__torch__\nM\n)\x81"
    deep = start + b"r" + struct.pack("<I", 0) + b"}b"
    for level in range(1, 41):  # the module below, under two names
        below = b"X\x01\0\0\0a" + deep + b"X\x01\0\0\0bj" + struct.pack("<I", level - 1)
        deep = start + b"r" + struct.pack("<I", level) + b"}(" + below + b"ub"
    circle = start + b"q\0}(X\x01\0\0\0ah\0ub"
    memo = start + b"r\xff\xff\xff\xff}b"
    for data in (deep, circle, memo):
        path = tmp_path / "a.pt"
        whole = b"\x80\x02" + data + b"."
        path.write_bytes(repacked(seeds["torchscript"], lambda _, whole=whole: whole))
        assert files.read_weights(path) == ({}, {})
        refused(path, "none of the known models has these tensors")


def test_a_safetensors_header_that_lies(tmp_path: Path) -> None:
    def file(header: Any, data: bytes = bytes(16), length: int | None = None) -> None:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        size = len(text) if length is None else length
        (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", size) + text + data)

    def tensor(kind: str, shape: list[int], end: int) -> dict[str, Any]:
        return {"x": {"dtype": kind, "shape": shape, "data_offsets": [0, end]}}

    cases: list[tuple[Any, ...]] = [
        (tensor("F32", [2**40], 2**42),),
        (tensor("F32", [2**40], 16),),
        (tensor("F32", [2**63, 2**63], 16),),
        (tensor("F99", [4], 16),),
        (tensor("F32", [-4], 16),),
        (tensor("F4", [32], 16),),
        (tensor("F32", [4], 16) | {"__metadata__": {"wentu": "[" * 100_000}},),
        (tensor("F32", [4], 16) | {"__metadata__": {"wentu": "{"}},),
        (tensor("F32", [4], 16) | {"__metadata__": {"wentu": "7"}},),
        ({}, b"", 2**63),
        ({}, b"", 2**40),
        (b"[" * 10_000, b""),
        (b"\xff" * 10, b""),
    ]
    for case in cases:
        file(*case)
        refused(tmp_path / "a.safetensors", r"a\.safetensors")


def most_memory() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reader(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """``read`` of a file with these bytes."""

    def from_bytes(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return from_bytes


def load_and_build(path: Path) -> None:
    found = checkpoint.load(path)
    found.processor()
    found.model()


def inputs(kind: str, data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Damage to the file; and, as its checksums find most of that, to the pickle inside of it."""
    yield from mutations(data, count // 2 if kind in ("zip", "torchscript") else count, seed)
    if kind in ("zip", "torchscript"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            inside = archive.read(name)
        for broken in mutations(inside, count - count // 2, seed + 1):
            yield repacked(data, lambda _, broken=broken: broken)


READERS: dict[str, Callable[[Path], object]] = {
    "weights": files.read_weights,
    "checkpoint": load_and_build,
}


def fuzz(kind: str, name: str, data: bytes, folder: Path, count: int, seed: int) -> None:
    suffix = ".safetensors" if kind == "safetensors" else ".pt"
    before = most_memory()
    survives(reader(folder / f"a{suffix}", READERS[name]), inputs(kind, data, count, seed))
    assert most_memory() - before < 500e6


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(kind: str, name: str, seeds: dict[str, bytes], tmp_path: Path) -> None:
    fuzz(kind, name, seeds[kind], tmp_path, 300, 0)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files(kind: str, name: str, seeds: dict[str, bytes], tmp_path: Path) -> None:
    fuzz(kind, name, seeds[kind], tmp_path, 10_000, 1)
