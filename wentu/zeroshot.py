"""Zero-shot classification: reading labels, and how often they are right on a suite of pictures.

How labels become vectors is in ``wentu.clip.labels``, which the search service needs too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wentu import pictures
from wentu.clip.encoder import Encoder
from wentu.clip.labels import TEMPLATES, embed_labels, probabilities, templates_for
from wentu.collection import Skipped, walk
from wentu.errors import InputError
from wentu.formats import batched
from wentu.progress import Reporter

__all__ = [
    "TEMPLATES",
    "Scores",
    "Suite",
    "embed_labels",
    "probabilities",
    "read_labels",
    "score",
    "templates_for",
]

LABEL_FILES = ("label_cn.txt", "labels.txt", "label.txt")


def read_labels(text: str) -> list[str]:
    """Labels from ``a,b,c`` (Chinese commas too), or a file with one a line.

    Raises InputError where there are fewer than two, or one comes twice.
    """
    path = Path(text).expanduser()
    if is_file(path):
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise InputError(
                f"{path} is not UTF-8; save it as UTF-8.", f"{path} 不是 UTF-8，请另存为 UTF-8。"
            ) from None
    else:
        lines = text.replace("，", ",").replace("、", ",").split(",")
    labels = [line.strip() for line in lines if line.strip()]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if len(labels) < 2 or twice:
        what = f"{twice[0]!r} comes twice" if twice else f"only {len(labels)} found"
        was = f"{twice[0]!r} 重复" if twice else f"只有 {len(labels)} 个"
        raise InputError(
            f"--labels needs two or more different labels, as a,b,c or a file: {what}.",
            f"--labels 需要两个以上不同的标签(写作 a,b,c 或用文件)：{was}。",
        )
    return labels


def is_file(path: Path) -> bool:
    """Whether there is such a file; what is no name of a file (too long) is none."""
    try:
        return path.is_file()
    except OSError:
        return False


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Pictures with the class that each shows."""

    labels: list[str]
    pictures: list[tuple[Path, int]]
    """(file, row of its label)"""

    @classmethod
    def open(cls, folder: Path, labels: list[str] | None = None) -> Suite:
        """A folder per class; or the layout of Chinese-CLIP's zero-shot sets.

        There, ``label_cn.txt`` has a label a line, and the pictures of the first are in
        ``test/000/``. Elsewhere a folder's name is its label, or its number among ``labels``.
        """
        if not folder.is_dir():
            raise InputError(
                f"--suite {folder}: no such folder.", f"--suite {folder}：目录不存在。"
            )
        found = next((folder / name for name in LABEL_FILES if (folder / name).exists()), None)
        if labels is None and found:
            labels = read_labels(str(found))
        root = folder / "test" if (folder / "test").is_dir() else folder
        folders = (each.name for each in root.iterdir() if each.is_dir())
        classes = sorted(name for name in folders if name[0] not in "._@")  # what systems keep
        names = labels or classes
        row = {name: number for number, name in enumerate(names)}
        if labels and not set(classes) <= set(labels):
            row = {name: int(name) for name in classes if name.isdigit()}
        unknown = [name for name in classes if row.get(name, len(names)) >= len(names)]
        if unknown or len(classes) < 2:
            some = ", ".join(unknown[:3]) or "-"
            raise InputError(
                f"--suite {folder}: expected a folder per class, named as in --labels or 000, 001, "
                f"… in their order; not understood: {some}.",
                f"--suite {folder}：应为每类一个目录，目录名为 --labels 中的标签，"
                f"或按其顺序为 000、001…；无法理解：{some}。",
            )
        skipped = Skipped()
        files = [
            (root / name / path, row[name])
            for name in classes
            for path in walk(root / name, skipped.add)
        ]
        if not files:
            raise InputError(f"{root} holds no picture.", f"{root} 中没有图片。")
        return cls(labels=list(names), pictures=files)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How well a model classifies a suite."""

    top1: float
    """Share of the pictures whose class came first."""
    top5: float
    mean_per_class: float
    """Top-1, averaged over the classes, so that large classes do not hide small ones."""
    per_class: list[tuple[str, int, float]]
    """(label, pictures, top-1)"""
    unreadable: int


def score(
    encoder: Encoder, suite: Suite, templates: Sequence[str], report: Reporter, name: str = ""
) -> Scores:
    """Classify every picture of a suite; what cannot be read is counted apart."""
    classes = embed_labels(encoder, suite.labels, templates)
    ranks: list[tuple[int, int]] = []
    parts = report.track(batched(suite.pictures, 32), name, len(suite.pictures), size=32)
    for part in parts:
        readable = list(_decoded(part))
        if not readable:
            continue
        cosines = encoder.encode_image([image for image, _ in readable]) @ classes.T
        for row, (_, label) in zip(cosines, readable, strict=True):
            ranks.append((label, int((row >= row[label]).sum())))  # ties count against the model
    if not ranks:
        raise InputError("no picture of the suite can be read.", "测试集中没有可读的图片。")
    label, rank = np.array(ranks).T
    per_class = [
        (name, int((label == row).sum()), float((rank[label == row] == 1).mean()))
        for row, name in enumerate(suite.labels)
        if (label == row).any()
    ]
    return Scores(
        top1=float((rank == 1).mean()),
        top5=float((rank <= 5).mean()),
        mean_per_class=float(np.mean([share for _, _, share in per_class])),
        per_class=per_class,
        unreadable=len(suite.pictures) - len(ranks),
    )


def _decoded(part: Sequence[tuple[Path, int]]) -> Iterator[tuple[Any, int]]:
    for path, label in part:
        try:
            yield pictures.decode(path.read_bytes()), label
        except (pictures.PictureError, OSError):
            continue
