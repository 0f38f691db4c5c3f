"""Memory of the stages that see every picture: it hardly grows with the collection.

Anonymous memory, which the system cannot take back (RssAnon of /proc/self/status), at its peak,
each stage in a process of its own. Files that are mapped (vectors, LMDB) do not count.
"""

from __future__ import annotations

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.proofs.conftest import OPTIONS, draw_collection, must

pytestmark = pytest.mark.heavy
SIZES = (2_000, 20_000)
BYTES_PER_PICTURE = 200
STAGES = ("pairs", "pack_lmdb", "features")

# Samples every 5 ms while the command runs in the same process, then says the peak in bytes.
MEASURE = """
import sys, threading
peak = 0
done = threading.Event()
def sample():
    global peak
    while not done.wait(0.005):
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith("RssAnon"))
        peak = max(peak, 1024 * int(line.split()[1]))
watcher = threading.Thread(target=sample)
watcher.start()
try:
    from wentu.cli import build
    build().main(sys.argv[1:], standalone_mode=False)
finally:
    done.set()
    watcher.join()
print("peak", peak)
"""


def many(folder: Path, count: int) -> Path:
    """``count`` different small pictures of noise, 100 to a folder, and captions as JSON."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        name = f"pictures/{number // 100:03d}/{number:06d}.png"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = BytesIO()
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue())
        rows.append({"image": name, "caption": [f"第 {number} 张图", f"噪声 {number % 97}"]})
    text = json.dumps(rows, ensure_ascii=False)
    (folder / "cn_all.json").write_text(text, encoding="utf-8")
    return folder


def peak_of(*words: str) -> int:
    """Peak anonymous memory of a command, in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *words], capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.split()[-1])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Any bundle of the tiny model."""
    folder = tmp_path_factory.mktemp("bundle")
    collection = draw_collection(folder / "drawn")
    where = ["--pictures", str(collection), "--captions", str(collection)]
    must("run", *where, "--store", str(folder / "store"), *OPTIONS[:-6], "--epochs", "1")
    return next((folder / "store" / "models").iterdir())


@pytest.fixture(scope="module")
def peaks(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, int]]:
    """Peak of each stage for each size of collection."""
    found: dict[int, dict[str, int]] = {}
    for size in SIZES:
        root = tmp_path_factory.mktemp(f"many-{size}")
        pictures, out = many(root / "collection", size), root / "out"
        what = ["--pictures", str(pictures), "--store", str(root / "store")]
        must("inventory", *what, "--captions", str(pictures), "--model", str(bundle), "--no-train",
             "--out", str(out / "inventory"))  # fmt: skip
        answer = json.loads((out / "inventory" / "answer.json").read_text(encoding="utf-8"))
        found[size] = {
            "pairs": peak_of(
                "pairs", *what, "--captions", str(pictures), "--inventory", answer["inventory"],
                "--out", str(out / "catalog"), "--tsv", str(out / "tsv"),
            ),
            "pack_lmdb": peak_of(
                "pack_lmdb", "--catalog", str(out / "catalog"), "--tsv", str(out / "tsv"),
                "--out", str(out / "lmdb"),
            ),
            "features": peak_of(
                "features", *what, "--catalog", str(out / "catalog"), "--bundle", str(bundle),
                "--out", str(out / "features"),
            ),
        }  # fmt: skip
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_memory_hardly_grows_with_the_pictures(
    peaks: dict[int, dict[str, int]], stage: str
) -> None:
    small, large = (peaks[size][stage] for size in SIZES)
    growth = (large - small) / (SIZES[1] - SIZES[0])
    print(
        f"\n{stage}: {small / 2**20:.1f} MiB for {SIZES[0]:,} pictures, {large / 2**20:.1f} MiB "
        f"for {SIZES[1]:,}: {growth:.0f} bytes a picture"
    )
    assert growth < BYTES_PER_PICTURE


def test_what_is_measured_would_show_a_leak() -> None:
    """The measuring itself: 40 MB that a command holds are seen."""
    plain = peak_of("--version")
    code = MEASURE.replace('print("peak"', 'hold = None\nprint("peak"').replace(
        "try:\n", "hold = bytearray(40_000_000)\ntry:\n    import time; time.sleep(0.05)\n", 1
    )
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True)
    assert int(done.stdout.split()[-1]) > plain + 30_000_000
