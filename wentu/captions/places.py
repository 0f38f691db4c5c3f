"""Which files ``--captions`` names, and which layout each of them has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from wentu.captions.rows import reading
from wentu.errors import InputError
from wentu.storage import local_copy

Kind = Literal["json", "jsonl", "table", "sheet", "clip"]

NO_FILES = ("names", "folder", "none")
"""Values of ``--captions`` that name no file."""
KINDS: dict[str, Kind] = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "table",
    ".tsv": "table",
    ".token": "table",
    ".txt": "table",
    ".xlsx": "sheet",
    ".xlsm": "sheet",
}
IN_FOLDERS: tuple[tuple[str, ...], ...] = (
    (".json",),
    (".jsonl", ".ndjson"),
    (".csv", ".tsv", ".xlsx", ".xlsm", ".token", ".token.txt"),
)
"""What is looked for in a folder; the first that is there is taken. A .txt may be anything."""
CLIP = re.compile(r"(?P<split>.+)_(?P<part>imgs\.tsv|texts\.jsonl)")
LANGUAGE = re.compile(r"(cn|en)[_\-.].*", re.IGNORECASE)


def caption_files(captions: str) -> list[Path]:
    """The files that ``captions`` names, one a line; a folder means the captions in it."""
    return list(dict.fromkeys(_files(captions, "")))


def expand(captions: str, language: str) -> str:
    """``captions`` with each folder replaced by its files, of that language (cn, en or '')."""
    if captions in NO_FILES:
        return captions
    if language not in ("", "cn", "en"):
        raise InputError(
            f"--captions-lang {language}: give cn or en.",
            f"--captions-lang {language}：请给出 cn 或 en。",
        )
    lines: list[str] = []
    for line in _lines(captions):
        path = local_copy(line, _may_be_captions)
        lines += [str(file) for file in _in_folder(path, language)] if path.is_dir() else [line]
    return "\n".join(lines)


def kind_of(path: Path) -> Kind:
    """The layout of a captions file, by its name, and by its content where that is clear."""
    if CLIP.fullmatch(path.name):
        return "clip"
    suffix = path.suffix.lower()
    with reading(path), path.open("rb") as file:
        head = file.read(4)
    if head == b"PK\x03\x04":
        return "sheet"
    if suffix == ".xls" or head == b"\xd0\xcf\x11\xe0":
        raise InputError(
            f"{path} is an old Excel file or has a password; save it as .xlsx without one.",
            f"{path} 是旧版 Excel 文件或有密码；请另存为无密码的 .xlsx。",
        )
    if suffix not in KINDS:
        raise InputError(
            f"{path}: captions are read from {', '.join(KINDS)}.",
            f"{path}：可读取的描述文件为 {'、'.join(KINDS)}。",
        )
    return KINDS[suffix]


def clip_pair(path: Path) -> tuple[Path, Path]:
    """The TSV and the JSONL of Chinese-CLIP that ``path``, one of the two, belongs to."""
    match = CLIP.fullmatch(path.name)
    assert match is not None
    pair = [path.with_name(f"{match['split']}_{part}") for part in ("imgs.tsv", "texts.jsonl")]
    for file in pair:
        if not file.is_file():
            raise InputError(
                f"{path} needs {file.name} beside it.", f"{path} 旁边应有 {file.name}。"
            )
    return pair[0], pair[1]


def _may_be_captions(name: str) -> bool:
    return name.lower().endswith(tuple(KINDS))


def _lines(captions: str) -> list[str]:
    return [line.strip() for line in captions.splitlines() if line.strip()]


def _files(captions: str, language: str) -> Iterator[Path]:
    for line in _lines(captions):
        path = local_copy(line, _may_be_captions)
        if path.is_dir():
            yield from _in_folder(path, language)
        elif path.is_file():
            yield from clip_pair(path) if CLIP.fullmatch(path.name) else [path]
        else:
            raise InputError(
                f"--captions {line}: no such file; give a captions file, its folder, names, "
                "folder or none.",
                f"--captions {line}：文件不存在；请给出描述文件、其所在目录、names、folder 或 "
                "none。",
            )


def _in_folder(folder: Path, language: str) -> list[Path]:
    with reading(folder):
        files = sorted(path for path in folder.iterdir() if path.is_file())
    files = [path for path in files if path.name[0] not in ".~"]  # ~$x.xlsx: open in Excel
    clip = [path for path in files if CLIP.fullmatch(path.name)]
    if clip:
        return list(dict.fromkeys(file for path in clip for file in clip_pair(path)))
    for suffixes in IN_FOLDERS:
        found = [path for path in files if path.name.lower().endswith(suffixes)]
        if found:
            return _of_language(folder, found, language)
    raise InputError(
        f"--captions {folder}: no captions in that folder (.json, .jsonl, .csv, .tsv, .xlsx, or "
        "Chinese-CLIP's TSV + JSONL).",
        f"--captions {folder}：该目录中没有描述文件(.json、.jsonl、.csv、.tsv、.xlsx 或 "
        "Chinese-CLIP 的 TSV + JSONL)。",
    )


def _of_language(folder: Path, files: list[Path], language: str) -> list[Path]:
    """Only those of one language where they say, as Flickr8K-CN's do: cn_train, en_train."""
    by_language: dict[str, list[Path]] = {}
    for path in files:
        match = LANGUAGE.fullmatch(path.name)
        if match:
            by_language.setdefault(match[1].lower(), []).append(path)
    if not language and len(by_language) > 1:
        first = ", ".join(by_language[each][0].name for each in ("cn", "en"))
        raise InputError(
            f"--captions {folder} holds captions in two languages ({first}); choose with "
            "--captions-lang cn or --captions-lang en, or name the files.",
            f"--captions {folder} 中有两种语言的描述({first})；请用 --captions-lang cn 或 "
            "--captions-lang en 选择，或直接给出文件。",
        )
    if language and by_language and language not in by_language:
        raise InputError(
            f"--captions {folder} holds no {language}_ file, which --captions-lang asks for.",
            f"--captions {folder} 中没有 --captions-lang 所要求的 {language}_ 文件。",
        )
    return by_language.get(language, files)
