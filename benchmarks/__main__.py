"""``python -m benchmarks [pack] [embed] [query] [topk] [train] [storage] [load] [serve]
[--quick]``: or all."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import embedding, load, packing, query, serve, storage, topk, train
from benchmarks.side_by_side import machine

MEASURES: dict[str, Callable[..., None]] = {
    "pack": packing.measure,
    "embed": embedding.measure,
    "query": query.measure,
    "topk": topk.measure,
    "train": train.measure,
    "storage": storage.measure,
    "load": load.measure,
    "serve": serve.measure,
}


def known(name: str) -> str:
    """The name of a measure; argparse tells the user about another one."""
    if name not in MEASURES:
        raise argparse.ArgumentTypeError(f"{name}: not one of {', '.join(MEASURES)}")
    return name


def main() -> None:
    """Measure what is asked for, one after the other, in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="wentu beside cn_clip's own scripts, in turn, on the same data, on the CPU. "
        "Needs 8 GB in the temporary folder (TMPDIR) and nothing from the network.",
    )
    names = ", ".join(MEASURES)
    parser.add_argument("what", nargs="*", type=known, help=f"{names}; all by default")
    parser.add_argument("--quick", action="store_true", help="small sizes, RN50: only that it runs")
    parser.add_argument("--device", default="cpu", help="of train; the others compare on the CPU")
    parser.add_argument("--demo", default="", help="of serve: a store that `wentu demo` made")
    parser.add_argument("--gallery", default="", help="of serve: keeps the large store there")
    parser.add_argument("--out", default="serve.json", help="of serve: its figures as JSON")
    given = parser.parse_args()
    options: dict[str, dict[str, str]] = {
        "train": {"device": given.device},
        "serve": {"demo": given.demo, "gallery": given.gallery, "out": given.out},
    }
    if given.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the CPU is what is compared, also beside a GPU
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # gigabytes are removed even then
    print(machine())
    with tempfile.TemporaryDirectory(prefix="wentu-bench-") as folder:
        for name in given.what or MEASURES:
            MEASURES[name](Path(folder), quick=given.quick, **options.get(name, {}))
    print(f"\n{time.monotonic() - began:.0f} s altogether")


if __name__ == "__main__":
    main()
