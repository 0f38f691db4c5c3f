"""Made pictures, captions and features: seeded, nothing is downloaded, the same for both sides."""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wentu.formats import (
    CATALOG,
    Manifest,
    Text,
    bytes_digest,
    create_catalog,
    id_of,
    text_id,
    write_manifest,
)

Vectors = npt.NDArray[np.float32]

QUERIES = (
    "雪地里的狗",
    "海边的日落",
    "戴眼镜的女孩",
    "红色连衣裙",
    "一杯咖啡和一本书",
    "夜晚的城市街道",
    "两个孩子在踢足球",
    "秋天的银杏树",
    "黑白老照片",
    "猫趴在窗台上睡觉",
    "复古风格的牛仔外套",
    "山顶上的日出和云海",
    "厨房里做饭的老人",
    "iPhone 手机壳 透明",
    "下雨天撑伞的行人",
    "桌上摆着一盘水果",
)
"""What people type into a search box: 5 to 14 characters."""

_WHO = ("一只棕色的小狗", "两个穿着校服的孩子", "一位戴草帽的老人", "一名穿红色外套的女子")
_WHERE = ("在雪地里", "在海边的沙滩上", "在热闹的夜市中", "在公园的长椅旁", "在厨房的窗户前")
_DOES = ("奔跑。", "抬头看着天空。", "和朋友们一起大笑。", "安静地等着什么人，手里拿着一本旧书。")
CAPTIONS = tuple(map("".join, itertools.product(_WHO, _WHERE, _DOES)))
"""80 sentences of 13 to 33 characters, as describers of pictures write them."""


def draw(number: int, size: tuple[int, int], grain: float, quality: int) -> bytes:
    """A JPEG of soft patches of colour with grain on it, which compresses about as a photo does."""
    from PIL import Image
    from PIL.Image import Resampling

    rng = np.random.default_rng(number)
    patches = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(patches).resize(size, Resampling.BICUBIC), np.float32)
    noisy = soft + rng.normal(0, grain, soft.shape)
    buffer = io.BytesIO()
    pixels = noisy.clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def captions(count: int) -> list[str]:
    """``count`` different captions."""
    return [
        f"{CAPTIONS[number % len(CAPTIONS)]}{number // len(CAPTIONS) or ''}"
        for number in range(count)
    ]


def collection(folder: Path, pictures: list[bytes], texts: list[str]) -> Path:
    """Pictures as files, catalog, TSV and JSONL: what pairs would have left, all for training."""
    (folder / "pictures").mkdir(parents=True)
    digests = [bytes_digest(data) for data in pictures]
    ids = [id_of(digest) for digest in digests]
    with (folder / "train_imgs.tsv").open("wb") as tsv:
        for row in sorted(range(len(ids)), key=lambda row: str(ids[row])):
            tsv.write(b"%d\t%s\n" % (ids[row], base64.urlsafe_b64encode(pictures[row])))
            (folder / "pictures" / f"{row}.jpg").write_bytes(pictures[row])
    with (folder / "train_texts.jsonl").open("w", encoding="utf-8") as file:
        for number, text in enumerate(texts):
            picture = ids[number % len(ids)]
            file.write(Text(text_id=text_id(text), text=text, image_ids=(picture,)).line())
    with closing(create_catalog(folder / CATALOG)) as catalog:
        catalog.executemany(
            "INSERT INTO pictures (id, digest, width, height, bytes, grp, split) "
            "VALUES (?, ?, 0, 0, 0, ?, 'train')",
            zip(ids, digests, ids, strict=True),
        )
        rows = ((f"{row}.jpg", picture) for row, picture in enumerate(ids))
        catalog.executemany("INSERT INTO paths VALUES (?, ?)", rows)
        named = ((text_id(text), text) for text in texts)
        catalog.executemany("INSERT INTO texts VALUES (?, ?)", named)
        catalog.commit()
    write_manifest(folder, Manifest(stage="pairs", config={}, inputs={}))
    return folder


def clip_like(pictures: int, texts: int, *, dimension: int = 512) -> tuple[Vectors, Vectors]:
    """Unit vectors that lie as CLIP's do: [pictures, D] and [texts, D].

    Pictures and texts are two narrow cones some way apart (Liang et al., "Mind the gap", 2022);
    within them, 300 topics that both share, and what is each vector's own. Cosines of a picture
    and a text are about 0.25 +- 0.05 at random, 0.4 on the same topic.
    """
    rng = np.random.default_rng(0)
    shared, gap = unit(rng.normal(size=(2, dimension)))
    topics = unit(rng.normal(size=(300, dimension)))

    def cone(count: int, side: float) -> Vectors:
        own = unit(rng.normal(size=(count, dimension)))
        topic = topics[rng.integers(len(topics), size=count)]
        return unit(0.5 * shared + side * 0.2 * gap + 0.35 * topic + 0.6 * own)

    return cone(pictures, 1.0), cone(texts, -1.0)


def unit(vectors: npt.NDArray[np.floating]) -> Vectors:
    """Rows of length 1."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / length, np.float32)


def write_features(path: Path, key: str, vectors: Vectors) -> None:
    """A features JSONL as cn_clip's extract_features.py writes it; ids are row numbers."""
    with path.open("w", encoding="utf-8") as file:
        for number, vector in enumerate(vectors):
            file.write(json.dumps({key: number, "feature": vector.tolist()}) + "\n")


def read_features(
    path: Path, key: str, value: str = "feature"
) -> Iterator[tuple[int, list[float]]]:
    """(id, feature) of each line of such a file, or of one with another value in its lines."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            yield entry[key], entry[value]
