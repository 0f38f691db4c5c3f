"""Hours, money and memory at 1 M, 100 M and 1 B pictures: arithmetic on measured costs.

``python -m benchmarks.scale`` prints the tables of docs/scale.md, ``--lang zh`` those of the
Chinese page; a test compares them. Every figure below is either measured or assumed, and says
which. Change one and print again: prices, the machine, the size of your pictures.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

# --- measured: `python -m benchmarks.stage_costs`, 2026-11-27, one thread of a shared two-core
# machine, drawn pictures of 640 x 480; seconds of a core for one picture
INVENTORY = 0.28e-3
"""Reading each file once for its digest."""
PAIRS = 8.9e-3
PACK_LMDB = 0.9e-3
DECODE = 12e-3
"""Of features: decoding, the model's input, a thumbnail."""
TOWER_CPU = 0.68
"""ViT-B-16's image tower as ONNX, float32, on a CPU, decoding included."""
INDEX = 2.2e-4
"""Building the compressed index and choosing how it is searched, by brute force; 300,000 and a
million vectors of benchmarks/gallery.py."""
QUERY = 1.5e-8
"""One query, for each vector of the index: three quarters of the codes, then 800 vectors."""
PICTURE_BYTES = 118e3
TSV, LMDB = 1.34, 1.36
"""Bytes of the training splits' files for each byte of a picture."""
CATALOG_BYTES = 500
INDEX_PEAK = 600
"""Bytes of memory for each vector while the index is built; the vectors are mapped."""
LOAD_PEAK, LOADED = 450, 150
"""The same while a release is loaded, and afterwards: codes and ids."""
MAPPED = 4 * 512
"""Vectors that a search pod reads from its disk, as far as they are not in memory."""

# --- from one step of the model in shapes (training/cost.py)
PICTURE_FLOPS, TEXT_FLOPS = 35.1e9, 4.1e9
"""A forward pass of ViT-B-16 + RoBERTa-base, a caption of 24 tokens."""
BACKWARD = 3
"""A training step in forward passes."""

# --- assumed
GPU_FLOPS = 0.3 * 130e12
"""30 % of the bf16 peak of a card of 130 TFLOP/s: never measured by us."""
GPU_DOLLARS, CORE_DOLLARS = 2.0, 0.04
"""An hour of a GPU, and of a core with 4 GB. Put in your own, here and in the next line."""
GB_MONTH_DOLLARS, READ_DOLLARS, WRITE_DOLLARS = 0.023, 0.4e-6, 5e-6
"""Object storage: a GB for a month, a GET, a PUT. A server of your own asks nothing for them."""
REQUEST_SECONDS, PARALLEL = 0.020, 16
"""Of one GET or PUT; how many are under way at once in a pod (storage/s3.py)."""
EPOCHS = 3
TRAINED = 10_000_000
"""Most pictures that are trained on; the others are only searched."""
THUMBNAIL_BYTES = 8_000
VECTOR_BYTES = MAPPED + 141
"""vectors.npy and index.faiss."""
PAIRS_CORES, SHARD_CORES = 16, 8
"""Cores of the one pod of pairs; of each pod of features."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A collection, and what a cluster gives to it."""

    pictures: int
    gpus: int
    """For finetune, and as many shards of features."""

    @property
    def trained(self) -> int:
        """Pictures in the training splits."""
        return min(self.pictures, TRAINED)


SIZES = (
    Size(pictures=1_000_000, gpus=1),
    Size(pictures=100_000_000, gpus=16),
    Size(pictures=1_000_000_000, gpus=64),
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a stage takes at one size."""

    hours: float
    """Of the clock: the computing or the requests, whichever takes longer."""
    dollars: float
    waits: bool
    """The requests take longer."""


def work(
    *, core: float = 0, flops: float = 0, reads: float = 0, writes: float = 0,
    pods: int = 1, cores: int = 1,
) -> Work:  # fmt: skip
    """Of seconds of a core, operations of GPUs, requests; ``cores`` of each pod, one GPU if any."""
    requests = (reads + writes) * REQUEST_SECONDS / PARALLEL / pods
    computing = max(core / cores, flops / GPU_FLOPS) / pods
    hours = max(requests, computing) / 3600
    price = cores * CORE_DOLLARS + (GPU_DOLLARS if flops else 0)
    dollars = hours * pods * price + reads * READ_DOLLARS + writes * WRITE_DOLLARS
    return Work(hours=hours, dollars=dollars, waits=requests > computing)


def stages(size: Size) -> dict[str, Work]:
    """The first run: everything is new, and a model is trained."""
    n, trained = size.pictures, size.trained
    pair = BACKWARD * (PICTURE_FLOPS + TEXT_FLOPS) * EPOCHS
    on_gpus = {"pods": size.gpus, "cores": SHARD_CORES}
    return {
        "inventory": work(core=INVENTORY * n, reads=n),
        "pairs": work(core=PAIRS * n, reads=n + trained, cores=PAIRS_CORES),
        "pack_lmdb": work(core=PACK_LMDB * trained),
        "finetune": work(flops=pair * trained, **on_gpus),
        "features": work(core=DECODE * n, flops=PICTURE_FLOPS * n, reads=n, writes=n, **on_gpus),
        "index": work(core=INDEX * n),
    }


def amounts(size: Size) -> dict[str, float]:
    """Bytes, by what holds them; a query's seconds on one core under "query"."""
    n = size.pictures
    return {
        "pictures": PICTURE_BYTES * n,
        "tsv": (TSV + LMDB) * PICTURE_BYTES * size.trained,
        "store": (THUMBNAIL_BYTES + VECTOR_BYTES + CATALOG_BYTES) * n,
        "catalog": CATALOG_BYTES * n,
        "index": INDEX_PEAK * n,
        "swap": (LOADED + LOAD_PEAK) * n,
        "serve": LOADED * n,
        "mapped": MAPPED * n,
        "query": QUERY * n,
    }


# --- printing ---------------------------------------------------------------------------------

WORDS = {
    "stage": ("stage", "阶段"),
    "pictures": ("pictures", "图片"),
    "hours": ("hours", "小时"),
    "together": ("together", "合计"),
    "gpus": ("GPUs", "GPU 数"),
    "what": ("what", "项目"),
    "of pictures": ("the pictures themselves", "图片本身"),
    "tsv": ("TSV + LMDB, on the disk of a pod", "TSV 与 LMDB(pod 的磁盘)"),
    "store": ("the store: thumbnails, vectors, index, catalog", "仓库：缩略图、向量、索引、目录"),
    "month": ("storing pictures and store, $ a month", "图片与仓库的存储费，美元/月"),
    "catalog": ("the catalog (one SQLite file)", "目录(一个 SQLite 文件)"),
    "index": ("memory of index", "index 的内存"),
    "swap": ("memory of a search pod while a new release comes", "搜索 pod 换用新版本时的内存"),
    "serve": ("and otherwise", "其余时间"),
    "mapped": ("vectors on its disk, better in memory", "磁盘上的向量(最好能放入内存)"),
    "query": ("a query on one core", "单核一次查询"),
}  # fmt: skip


def said(key: str, language: str) -> str:
    """A word in English or Chinese."""
    return WORDS[key][language == "zh"]


def short(number: float) -> str:
    """Two digits that count."""
    if number >= 10:
        digits = len(str(int(number))) - 2
        return f"{round(number / 10**digits) * 10**digits:,}"
    return f"{number:.2g}" if number >= 0.095 else "< 0.1"


def bytes_of(number: float) -> str:
    """With a decimal unit."""
    for unit, scale in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if number >= scale:
            return f"{short(number / scale)} {unit}"
    return f"{short(number / 1e6)} MB"


def seconds_of(number: float) -> str:
    """Seconds, or milliseconds."""
    return f"{short(number)} s" if number >= 1 else f"{short(1e3 * number)} ms"


def table(head: list[str], rows: list[list[str]]) -> str:
    """In Markdown, numbers to the right."""
    rule = "|---|" + "---:|" * (len(head) - 1)
    return "\n".join(["| " + " | ".join(row) + " |" for row in [head]] + [rule] + [
        "| " + " | ".join(row) + " |" for row in rows
    ])  # fmt: skip


NAMES = (("1 M", "100 万"), ("100 M", "1 亿"), ("1 B", "10 亿"))
"""Of SIZES."""


def time_table(language: str) -> str:
    """Hours and money of the first run; * where a stage waits for requests."""
    hours = said("hours", language)
    heads = [name[language == "zh"] for name in NAMES]
    head = [
        said("stage", language),
        *(f"{each}: {unit}" for each in heads for unit in (hours, "$")),
    ]
    done = [stages(size) for size in SIZES]
    rows = [[said("gpus", language)] + [x for size in SIZES for x in (str(size.gpus), "")]]
    for stage in done[0]:
        row = [stage]
        for each in (works[stage] for works in done):
            row += [short(each.hours) + (" *" if each.waits else ""), short(each.dollars)]
        rows.append(row)
    total = [said("together", language)]
    for works in done:
        total += [short(sum(each.hours for each in works.values()))]
        total += [short(sum(each.dollars for each in works.values()))]
    return table(head, [*rows, total])


def size_table(language: str) -> str:
    """Disk, memory, money a month, and the time of a query."""
    found = [amounts(size) for size in SIZES]
    month = [(f["pictures"] + f["store"]) / 1e9 * GB_MONTH_DOLLARS for f in found]
    rows = [[said("of pictures", language)] + [bytes_of(f["pictures"]) for f in found]]
    for key in ("tsv", "store"):
        rows.append([said(key, language)] + [bytes_of(f[key]) for f in found])
    rows.append([said("month", language)] + [short(each) for each in month])
    for key in ("catalog", "index", "swap", "serve", "mapped"):
        rows.append([said(key, language)] + [bytes_of(f[key]) for f in found])
    rows.append([said("query", language)] + [seconds_of(f["query"]) for f in found])
    return table([said("what", language)] + [name[language == "zh"] for name in NAMES], rows)


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--lang", choices=("en", "zh"), default="en")
    language = parser.parse_args().lang
    print(time_table(language), size_table(language), sep="\n\n")


if __name__ == "__main__":
    main()
