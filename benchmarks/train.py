"""Training steps of ViT-B-16 + RoBERTa-base: our loop beside cn_clip's training/main.py.

The same pictures (real JPEG files, decoded on the way), captions, batch and device. On a machine
with a GPU both use it (``--device``); cn_clip's script runs unmodified there. On the CPU a launcher
makes its calls of ``.cuda()`` do nothing and gives it gloo instead of nccl.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.data import captions, collection, draw
from benchmarks.side_by_side import Row, Seconds, Times, in_turn, run, table

WARM = 1
"""Steps that are not counted: the first one allocates, and waits for the first batch."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is trained."""

    model: str
    batch: int
    steps: int
    chunk: int = 0
    dropped: float = 0.0
    """Share of the patches that a step of ours leaves out (FLIP); theirs leaves none out."""


def size_of(device: str, *, quick: bool) -> Size:
    """Quick: only that it runs. CPU: as large as two cores bear. GPU: the batch of the aim."""
    if quick:
        return Size(model="RN50", batch=4, steps=3)
    if device == "cpu":
        return Size(model="ViT-B-16", batch=16, steps=5)
    return Size(model="ViT-B-16", batch=1024, steps=30, chunk=512)


def make(folder: Path, size: Size) -> Path:
    """An LMDB with as many pictures as are seen in all steps, one caption each; made once."""
    from wentu.stages import pack_lmdb

    lmdb = folder / "train-lmdb"
    if not lmdb.exists():
        count = size.batch * size.steps
        few = [draw(number, (500, 375), 12.0, 90) for number in range(min(count, 2048))]
        pictures = [
            few[number % len(few)] + b"\0" * (number // len(few)) for number in range(count)
        ]
        data = collection(folder / "train", pictures, captions(count))
        with contextlib.redirect_stderr(io.StringIO()):
            pack_lmdb.pack_lmdb(catalog=data, tsv=data, out=lmdb, config=pack_lmdb.Config())
    return lmdb


def measure(folder: Path, *, quick: bool, device: str = "cpu") -> None:
    """Both sides take the same number of steps through the same data."""
    size = size_of(device, quick=quick)
    lmdb = make(folder, size)

    def one(side: str, size: Size = size) -> Seconds:
        return _seconds(run("benchmarks.train", [side, lmdb, *_words(size), device]))

    times = in_turn(lambda: one("ours"), lambda: one("theirs"), 1 if quick else 2)
    peak, rows = (
        peak_of(device),
        [
            Row(what="pairs a second", name="step", count=size.batch, aim=1.5),
            Row(what="whole command, model made", name="whole"),
        ],
    )
    left, right = (statistics.median(side["memory"]) for side in times)
    waits = [statistics.median(side["wait"]) / statistics.median(side["step"]) for side in times]
    title = f"training {size.model}, batches of {size.batch}, {size.steps - WARM} steps, {device}"
    table(
        title,
        *times,
        rows,
        [
            "theirs: training/main.py, unmodified, in full: fp32 on the CPU, --precision amp on a "
            "GPU; 4 loader processes; 52 tokens",
            "ours: wentu.training with its defaults, texts cut to the longest of their batch",
            f"MFU: {utilisation(size, times[0], peak):.1%} (theirs "
            f"{utilisation(size, times[1], peak):.1%}) of {PEAK[device == 'cpu']}; 3 forward "
            "passes of a pair of 24 tokens, whatever is computed beside",
            f"waited for data: {waits[0]:.1%} of a step"
            + ("" if size.chunk else f" (theirs {waits[1]:.1%})"),  # they count a pass with it
            f"peak memory: {left:.2f} GiB (theirs {right:.2f} GiB, loader processes not counted)",
        ],
    )
    if size.model.startswith("ViT"):
        flip = {name: [value] for name, value in one("ours", replace(size, dropped=0.5)).items()}
        table(
            f"{title}: ours with --patch-dropout 0.5",
            flip,
            {name: values[:1] for name, values in times[1].items()},
            rows,
            [
                "another training than theirs: half of each picture's patches are left out but for "
                "a short finish (FLIP, Li et al. 2023); theirs is the run above",
                f"peak memory: {flip['memory'][0]:.2f} GiB",
            ],
        )


PEAK = ("the card's peak in bf16", "this machine's float32 matrix product")


def peak_of(device: str) -> float:
    """Operations per second that the device is held to; 0: not known."""
    from wentu.orchestrate.estimate import matrix_rate
    from wentu.training.devices import peak_rate_of, pick_device

    if device != "cpu":
        return peak_rate_of(pick_device(device), "bf16")
    return max(matrix_rate() for _ in range(5))


def utilisation(size: Size, times: Times, peak: float) -> float:
    """Share of the peak that goes into the model; 0: its peak is not known."""
    from wentu.clip.model import architecture
    from wentu.training.cost import pair_flops

    rate = size.batch / statistics.median(times["step"])
    return 3 * pair_flops(architecture(size.model)) * rate / peak if peak else 0.0


def _words(size: Size) -> list[str]:
    return [str(value) for value in vars(size).values()]


def _seconds(value: dict[str, Any]) -> Seconds:
    """Medians over the steps that count."""
    steps, waits = value["steps"][WARM:], value["waits"][WARM:]
    return {
        "step": statistics.median(steps),
        "wait": statistics.median(waits),
        "memory": value["memory"] / 2**30,
        "whole": value["whole"],
    }


# --- one side, in a process of its own ---------------------------------------------------------


def ours(lmdb: Path, size: Size, device: str) -> dict[str, Any]:
    """One epoch by our trainer, without validation."""
    from wentu.progress import Reporter
    from wentu.tracking import Tracker
    from wentu.training.config import Config
    from wentu.training.devices import peak_memory, pick_device
    from wentu.training.job import Job

    moments: list[float] = []
    waits: list[float] = []

    class Clock(Reporter):
        def track(self, items: Iterable[Any], *_: Any, **__: Any) -> Iterator[Any]:
            following = iter(items)
            while True:
                moments.append(time.perf_counter())
                try:
                    item = next(following)
                except StopIteration:
                    return
                waits.append(time.perf_counter() - moments[-1])
                yield item

    config = Config(
        epochs=1,
        batch_size=size.batch,
        chunk=size.chunk,
        patch_dropout=size.dropped,
        device=device,
        sampler="random",
        save_seconds=1e9,
        nproc=1,
    )
    with tempfile.TemporaryDirectory() as work:
        job = Job(lmdb=lmdb, model=f"scratch:{size.model}", work=Path(work), config=config)
        job.train(Clock(), Tracker())
    steps = [after - before for before, after in pairwise(moments)]
    return {"steps": steps, "waits": waits, "memory": peak_memory(pick_device(device))}


def theirs(lmdb: Path, size: Size, device: str) -> dict[str, Any]:
    """The same by cn_clip's script, from its log."""
    import runpy
    import sys

    from wentu.clip.model import VISION_AND_TEXT
    from wentu.training.devices import peak_memory, pick_device

    if device == "cpu":
        _on_the_cpu()
    os.environ |= {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    vision, text, _ = VISION_AND_TEXT[size.model]
    with tempfile.TemporaryDirectory() as logs:
        sys.argv = [
            "main.py",
            *("--train-data", str(lmdb / "train"), "--logs", logs, "--name", "b"),
            *("--vision-model", vision, "--text-model", text, "--context-length", "52"),
            *("--batch-size", str(size.batch // max(1, size.batch // (size.chunk or size.batch)))),
            *("--accum-freq", str(max(1, size.batch // (size.chunk or size.batch)))),
            *("--max-epochs", "1", "--warmup", "1", "--log-interval", "1"),
            *("--save-epoch-frequency", "0", "--save-step-frequency", "0"),
            *("--precision", "fp32" if device == "cpu" else "amp", "--lr", "1e-5"),
        ]
        runpy.run_module("cn_clip.training.main", run_name="__main__")
        time.sleep(1)  # its log is written by a thread
        log = "".join(path.read_text("utf-8") for path in (Path(logs) / "b").glob("out_*.log"))
    steps = [float(each) for each in re.findall(r"Batch Time: ([\d.]+)s", log)]
    waits = [float(each) for each in re.findall(r"Data Time: ([\d.]+)s", log)]
    return {"steps": steps, "waits": waits, "memory": peak_memory(pick_device(device))}


def _on_the_cpu() -> None:
    """What names CUDA in its script does nothing, or means gloo and the CPU."""
    import torch
    import torch.distributed as distributed

    from benchmarks.launcher import stay_on_the_cpu

    stay_on_the_cpu()
    join, parallel = distributed.init_process_group, torch.nn.parallel.DistributedDataParallel

    def gloo(*_: Any, **__: Any) -> None:
        join(backend="gloo")

    def on_cpu(model: Any, device_ids: Any = None, **given: Any) -> Any:
        return parallel(model, **given)

    distributed.init_process_group = gloo
    torch.nn.parallel.DistributedDataParallel = on_cpu


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def main() -> None:
    """``python -m benchmarks.train REPORT ours|theirs LMDB``, then the fields of Size, DEVICE."""
    import json
    import sys

    report, side, lmdb, model, batch, steps, chunk, dropped, device = sys.argv[1:]
    size = Size(
        model=model, batch=int(batch), steps=int(steps), chunk=int(chunk), dropped=float(dropped)
    )
    value = {"ours": ours, "theirs": theirs}[side](Path(lmdb), size, device)
    Path(report).write_text(json.dumps(value), encoding="utf-8")


if __name__ == "__main__":
    main()
