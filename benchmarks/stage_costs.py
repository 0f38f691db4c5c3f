"""What each stage costs for one more picture: the figures that benchmarks/scale.py reckons with.

``python -m benchmarks.stage_costs [--quick]``. Drawn pictures of 640 x 480 (about 120 KB as JPEG).
Every stage runs as a process of its own on two sizes of collection, with one thread; what is
printed is the slope between them: seconds of a core (not of the clock, so that other work on the
machine does not count) and bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import embedding
from benchmarks.data import captions, clip_like, draw
from benchmarks.side_by_side import machine

ONE_THREAD = {"OMP_NUM_THREADS": "1", "WENTU_TRACKING": "off", "CUDA_VISIBLE_DEVICES": ""}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one run of one stage."""

    seconds: float
    """Of a core, user and system."""
    peak: float
    """Bytes resident at most."""
    disk: float
    """Bytes of its output."""


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())


def run(words: list[str], out: Path) -> Cost:
    """``wentu`` with these words; its children count too."""
    script = (
        "import json, resource as r, subprocess as s, sys; "
        "done = s.run(sys.argv[1:], stdout=2).returncode; u = r.getrusage(r.RUSAGE_CHILDREN); "
        "print(json.dumps([done, u.ru_utime + u.ru_stime, u.ru_maxrss * 1024]))"
    )
    line = [sys.executable, "-c", script, sys.executable, "-m", "wentu", *words]
    env = os.environ | ONE_THREAD
    said = subprocess.run(line, env=env, capture_output=True, text=True, check=True)
    code, seconds, peak = json.loads(said.stdout)
    if code:
        sys.exit(said.stderr)
    return Cost(seconds=seconds, peak=peak, disk=size_of(out))


def collection(folder: Path, count: int) -> tuple[str, str]:
    """Pictures as files, and a caption for each: what --pictures and --captions name."""
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for number, text in enumerate(captions(count)):
        (folder / "pictures" / f"{number:06}.jpg").write_bytes(draw(number, (640, 480), 12.0, 90))
        rows.append({"image": f"{number:06}.jpg", "caption": text})
    table = folder / "captions.json"
    table.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return str(folder / "pictures"), str(table)


def stages(folder: Path, count: int) -> dict[str, Cost]:
    """inventory, pairs and pack_lmdb on a collection of ``count``."""
    pictures, table = collection(folder, count)
    store, out = str(folder / "store"), folder / "out"
    where = ["--pictures", pictures, "--captions", table, "--store", store]
    costs = {
        "inventory": run(
            ["inventory", *where, "--scratch", "--out", str(out / "inventory")], out / "inventory"
        )
    }
    answer = json.loads((out / "inventory" / "answer.json").read_text("utf-8"))
    given = [*where, "--inventory", answer["inventory"], "--out", str(out / "catalog")]
    costs["pairs"] = run(["pairs", *given, "--tsv", str(out / "tsv")], out)
    tsv = ["--catalog", str(out / "catalog"), "--tsv", str(out / "tsv")]
    costs["pack_lmdb"] = run(["pack_lmdb", *tsv, "--out", str(out / "lmdb")], out / "lmdb")
    return costs


def slope(few: Cost, many: Cost, pictures: int) -> Cost:
    """Per picture."""
    return Cost(
        seconds=(many.seconds - few.seconds) / pictures,
        peak=(many.peak - few.peak) / pictures,
        disk=(many.disk - few.disk) / pictures,
    )


def features(folder: Path, *, quick: bool) -> dict[str, float]:
    """Seconds of a core for one more picture, with ViT-B-16 as ONNX."""
    from wentu import pictures as decoder
    from wentu.clip.bundle import Bundle

    made = embedding.make(folder, quick=quick)
    bundle = Bundle(made.bundle)
    batch = [path.read_bytes() for path in (made.data / "pictures").iterdir()][:16]
    bundle.encode_image(batch[:2])

    def prepare() -> None:
        for data in batch:
            picture = decoder.decode(data)
            bundle.processor.pixels(picture)
            decoder.thumbnail(picture)

    return {
        "decoding, input, thumbnail": cpu(prepare) / len(batch),
        "and the image tower": cpu(lambda: bundle.encode_image(batch)) / len(batch),
    }


def cpu(work: Callable[[], object]) -> float:
    """Seconds of a core that it takes in this process."""
    before = time.process_time()
    work()
    return time.process_time() - before


def flat(count: int, queries: int = 64) -> dict[str, float]:
    """Seconds of a core for each of ``count`` vectors of 512 numbers that a query is held to."""
    from wentu import ann

    vectors, texts = clip_like(count, queries)
    built = ann.build(vectors)
    one = cpu(lambda: [built.search(text[None], 10) for text in texts]) / queries
    many = cpu(lambda: built.search(texts, 10)) / queries
    return {"one query": one / count, "of a batch of 64": many / count}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stage_costs", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: only that it runs")
    quick = parser.parse_args().quick
    few, many = (20, 60) if quick else (200, 2200)
    print(machine())
    with tempfile.TemporaryDirectory(prefix="wentu-costs-") as name:
        folder = Path(name)
        small, large = stages(folder / "few", few), stages(folder / "many", many)
        print(f"a picture of {size_of(folder / 'many' / 'pictures') / many:,.0f} bytes")
        for stage, cost in small.items():
            each = slope(cost, large[stage], many - few)
            print(
                f"{stage:10} {1e3 * each.seconds:8.2f} ms of a core, {each.peak:9,.0f} bytes of "
                f"memory, {each.disk:9,.0f} bytes of disk a picture"
            )
        for key, value in features(folder / "embed", quick=quick).items():
            print(f"features, {key}: {1e3 * value:.2f} ms of a core a picture")
    for key, value in flat(10_000 if quick else 400_000).items():
        print(f"flat index, {key}: {value:.3g} a vector")


if __name__ == "__main__":
    main()
