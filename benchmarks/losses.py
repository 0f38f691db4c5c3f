"""What the default loss and sampler are worth beside those of Chinese-CLIP, seed by seed.

    python -m benchmarks.losses demo OUT
    python -m benchmarks.losses flickr8k-cn OUT --pictures DIR --captions FILE --captions FILE

Each arm trains the same model from the same weights on the same split with five seeds; nothing but
``positives`` and ``sampler`` differs. The weights are random, others for each seed; or, with
``--start-epochs``, those of one short training in small batches in which what belongs together off
the diagonal was left out, which is neither arm's way: for batches so large that random weights
would learn nothing in the time there is. What an arm and a seed gave is kept in OUT, apart
for each batch size, number of epochs and learning rate, so the same command goes on where it was
stopped. It ends with ``report.html`` and ``summary.json`` there.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wentu import report, retrieval, verdict
from wentu.clip import checkpoint
from wentu.clip.encoder import TorchEncoder
from wentu.formats import PairsLmdb, read_json, write_json
from wentu.progress import Reporter, open_reporter
from wentu.retrieval import Interval
from wentu.stages import evaluate, inventory, pack_lmdb, pairs
from wentu.tracking import Tracker
from wentu.training import saving
from wentu.training.config import Config
from wentu.training.job import Job

ARMS: dict[str, dict[str, str]] = {
    "reference": {"positives": "diagonal", "sampler": "random"},
    "default": {},
}
MODEL, BATCH_SIZE = "scratch:tiny", 64
EPOCHS = {"demo": 15, "flickr8k-cn": 5}
"""The demo's preset; and a pass more than the first in which the tiny model finds anything."""
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
"""97.5 % quantiles of Student's t by degrees of freedom."""
COLUMNS = ("mean_recall", "text_to_image/recall@1", "image_to_text/recall@1")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The second arm minus the first, in test mean recall."""

    by_seed: list[float]
    seeds: tuple[float, float]
    """95 % interval of its mean over trainings: Student's t of the seeds' differences."""
    queries: Interval
    """95 % interval over test pictures: paired bootstrap of the hits, averaged over the seeds."""


def prepare(out: Path, name: str, pictures: str, captions: list[str]) -> Path:
    """The LMDB that everything is trained and tested on, made once."""
    lmdb = out / "lmdb"
    if (lmdb / "manifest.json").exists():
        return lmdb
    if name == "demo":
        from wentu.demo import make_collection

        pictures, captions = str(out / "collection"), [str(out / "collection")]
        make_collection(Path(pictures), 0)
    where = {"pictures": pictures, "captions": "\n".join(captions), "store": str(out / "store")}
    answer = inventory.inventory(
        **where,
        out=out / "inventory",
        model=MODEL,
        config=inventory.Config(),
    )
    pairs.pairs(
        **where,
        inventory=answer.inventory,
        out=out / "catalog",
        tsv=out / "tsv",
        config=pairs.Config(),
    )
    pack_lmdb.pack_lmdb(
        catalog=out / "catalog", tsv=out / "tsv", out=lmdb, config=pack_lmdb.Config()
    )
    return lmdb


def make_start(lmdb: Path, folder: Path, model: str, config: Config, progress: Reporter) -> str:
    """Weights that both arms start from, in neither arm's way; returns their file's name."""
    path = folder / "start.pt"
    if not path.exists():
        work = folder / "work"
        work.mkdir(parents=True, exist_ok=True)
        config = replace(config, batch_size=BATCH_SIZE, positives="ignore", sampler="random")
        job = Job(lmdb=lmdb, model=model, work=work, config=config)
        job.train(progress, Tracker())
        start, best = job.start(), saving.read_pt(work / saving.position(work).best)
        checkpoint.save(path, best, start, epoch=0, step=0, info=start.info)
    return str(path)


def train(
    lmdb: Path, folder: Path, model: str, config: Config, progress: Reporter
) -> dict[str, Any]:
    """One arm with one seed: its figures on test, and each query's hits; kept in ``folder``."""
    kept = folder / "result.json"
    if not kept.exists():
        work = folder / "work"
        work.mkdir(parents=True, exist_ok=True)
        job = Job(lmdb=lmdb, model=model, work=work, config=config)
        job.train(progress, Tracker())
        at = saving.position(work)
        best = replace(job.start(), state=saving.read_pt(work / at.best))
        task, _ = evaluate.split_to_test(lmdb)
        with PairsLmdb(lmdb / "test") as split:
            scored = verdict.score(split, task, TorchEncoder(best), "test", progress)
        write_json(
            kept,
            {
                "metrics": scored.metrics,
                "hits": scored.hits().tolist(),
                "best_epoch": at.best_epoch,
                "seconds": at.seconds,
            },
        )
    return dict(read_json(kept))


def compare(lmdb: Path, left: list[dict[str, Any]], right: list[dict[str, Any]]) -> Difference:
    """``right`` minus ``left``, seed by seed."""
    task, groups = evaluate.split_to_test(lmdb)
    by_seed = [
        b["metrics"]["mean_recall"] - a["metrics"]["mean_recall"]
        for a, b in zip(left, right, strict=True)
    ]
    mean = statistics.fmean(by_seed)
    half = math.inf
    if len(by_seed) > 1:
        free = len(by_seed) - 1
        half = STUDENT[free] * statistics.stdev(by_seed) / math.sqrt(len(by_seed))
    hits = [np.array(b["hits"]) - np.array(a["hits"]) for a, b in zip(left, right, strict=True)]
    interval = retrieval.paired_bootstrap(
        np.mean(hits, axis=0) * verdict.weights(task), verdict.clusters_of(task, groups)
    )
    return Difference(by_seed=by_seed, seeds=(mean - half, mean + half), queries=interval)


def run(
    lmdb: Path, out: Path, model: str, usual: dict[str, Any], seeds: int, progress: Reporter
) -> dict[str, list[dict[str, Any]]]:
    """What each arm gave with each seed; both arms of a seed before the next seed.

    Args:
        usual: options of finetune that both arms share.
    """
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for seed in range(seeds):
        for arm, changed in ARMS.items():
            config = Config(**usual, seed=seed, **changed)
            result = train(lmdb, out / f"{arm}-{seed}", model, config, progress)
            results[arm].append(result)
            print(json.dumps({"arm": arm, "seed": seed} | result["metrics"]), flush=True)
    return results


def write_report(
    out: Path, lmdb: Path, name: str, usual: str, results: dict[str, list[dict[str, Any]]]
) -> str:
    """``report.html`` and ``summary.json``; returns the verdict's sentence."""
    first, second = results
    found = compare(lmdb, results[first], results[second])
    mean, low, high = statistics.fmean(found.by_seed), *found.seeds
    queries = found.queries
    sentence = (
        f"{name}, {len(found.by_seed)} seeds: mean recall of {second} minus {first}: "
        f"{100 * mean:+.2f} points; over trainings [{100 * low:+.2f}, {100 * high:+.2f}], "
        f"over test pictures [{100 * queries.low:+.2f}, {100 * queries.high:+.2f}]."
    )
    rows: list[list[str | float]] = []
    for seed, difference in enumerate(found.by_seed):
        cells: list[str | float] = [str(seed)]
        for arm in results:
            cells += [f"{100 * results[arm][seed]['metrics'][key]:.2f}" for key in COLUMNS]
        rows.append([*cells, f"{100 * difference:+.2f}"])
    heads = [f"{arm}: {key.replace('_', ' ')}" for arm in results for key in COLUMNS]
    table = report.Table(columns=["seed", *heads, "mean recall, difference"], rows=rows)
    settings = "\n".join(f"{arm}: {ARMS[arm] or 'as wentu trains by default'}" for arm in results)
    report.write_html(
        out / "report.html",
        "Loss and sampler",
        [
            report.Paragraph(text=sentence),
            report.Paragraph(text=f"{settings}\nboth: {usual}"),
            table,
        ],
    )
    summary = {"difference": vars(found) | {"queries": vars(queries)}, "verdict": sentence}
    summary |= {arm: [each["metrics"] for each in results[arm]] for arm in results}
    write_json(out / "summary.json", summary)
    return sentence


def main() -> None:
    """Train what is not trained yet, then report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.losses", description=__doc__)
    parser.add_argument("name", choices=EPOCHS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pictures", default="", help="folder of the pictures")
    parser.add_argument("--captions", action="append", default=[], help="file; may be repeated")
    parser.add_argument("--seeds", type=int, default=5, choices=range(1, 6))
    parser.add_argument("--model", default=MODEL, help="what is trained; scratch:FILE: its kind")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--epochs", type=int, help="default: the data set's")
    parser.add_argument("--lr", type=float, default=0.0, help="default: what finetune would take")
    parser.add_argument("--patch-dropout", type=float, default=0.0)
    parser.add_argument("--start-epochs", type=int, default=0, help="of the common start")
    given = parser.parse_args()
    lmdb = prepare(given.out, given.name, given.pictures, given.captions)
    progress, model = open_reporter("losses"), given.model
    out = given.out if model == MODEL else given.out / Path(model).stem
    both: dict[str, Any] = {
        "batch_size": given.batch_size,
        "epochs": given.epochs or EPOCHS[given.name],
        "learning_rate": given.lr,
        "patch_dropout": given.patch_dropout,
    }
    out /= "-".join(str(value) for value in both.values())
    if given.start_epochs:
        first = Config(epochs=given.start_epochs, patch_dropout=given.patch_dropout)
        start = f"start-{given.start_epochs}-{given.patch_dropout}"
        model = make_start(lmdb, out.with_name(start), model, first, progress)
        out = out.with_name(f"{out.name}-{start}")
    results = run(lmdb, out, model, both, given.seeds, progress)
    print(write_report(out, lmdb, given.name, f"{both}, from {Path(model).name}", results))


if __name__ == "__main__":
    main()
