"""`wentu compare`: two runs side by side: what was set differently, what came of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from wentu.commands.options import console as make_console
from wentu.commands.options import make_command, make_option
from wentu.errors import InputError
from wentu.formats import read_json
from wentu.language import pick
from wentu.orchestrate.local import runs
from wentu.progress import clock
from wentu.settings import store_place
from wentu.store import Store


def command() -> click.Command:
    """The command."""
    made = make_command("compare", execute, [])
    made.params = [
        click.Argument(["names"], nargs=-1),
        make_option("store", str, "", pick("The store [WENTU_STORE].", "仓库 [WENTU_STORE]。")),
    ]
    return made


def execute(names: tuple[str, ...], store: str | None) -> None:
    """Compare the named runs (default: the last two that trained)."""
    vault = Store(store or store_place())
    known = runs(vault)
    console = make_console()
    if not names:
        console.print(overview(known))
        trained = [run for run in known if evaluation_of(vault, run)]
        if len(trained) < 2:
            return
        names = (trained[-2]["run_id"], trained[-1]["run_id"])
    chosen = [find(known, name) for name in names]
    console.print(side_by_side(vault, chosen))
    if len(chosen) == 2:
        for table in moved(vault, chosen):
            console.print(table)


def find(known: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The run whose id starts or ends with ``name``."""
    fits = [r for r in known if r["run_id"].startswith(name) or r["run_id"].endswith(name)]
    if len(fits) != 1:
        ids = ", ".join(run["run_id"] for run in (fits or known)[-10:]) or "-"
        en = zh = ""
        if not fits:
            en = (
                " Runs of a cluster are not kept here: compare them in MLflow, and release the "
                "model of one with `wentu run --no-train --model BUNDLE`, the s3:// address of "
                "what its export-onnx put out."
            )
            zh = (
                "集群上的运行不保存在本机：请在 MLflow 中比较；要发布其模型，请用 wentu run "
                "--no-train --model 模型包，即该运行 export-onnx 输出的 s3:// 地址。"
            )
        raise InputError(
            f"{name} names {len(fits)} runs; known: {ids}.{en}",
            f"{name} 对应 {len(fits)} 次运行；已有：{ids}。{zh}",
        )
    return fits[0]


def evaluation_of(store: Store, run: dict[str, Any]) -> dict[str, Any]:
    """What the run's own evaluation said; empty where it made none."""
    folder = store.storage.home / f"runs/{run['run_id']}/artifacts"
    found: list[Path] = sorted(folder.glob("*/evaluate/report/evaluation.json"))
    return dict(read_json(found[0])) if found else {}


SHOWN = 8
"""Queries that got better, and as many that got worse."""


def queries_of(store: Store, run: dict[str, Any]) -> dict[str, int]:
    """The rank of each test caption's picture by the run's candidate."""
    folder = store.storage.home / f"runs/{run['run_id']}/artifacts"
    found = sorted(folder.glob("*/evaluate/report/queries.jsonl"))
    if not found:
        return {}
    lines = map(json.loads, found[0].read_text("utf-8").splitlines())
    return {line["text"]: line["ranks"]["candidate"] for line in lines}


def moved(store: Store, chosen: list[dict[str, Any]]) -> Iterator[Table]:
    """The queries whose picture moved most, up and down; none where the splits differ."""
    if len({evaluation_of(store, run).get("split_version", "") for run in chosen}) > 1:
        return
    before, after = (queries_of(store, run) for run in chosen)
    # From 1 to 3 matters more than from 101 to 103.
    change = {text: math.log(before[text] / after[text]) for text in before.keys() & after.keys()}
    order = sorted(change, key=lambda text: (change[text], text))
    for title, texts in (
        (pick("Found better", "排名上升"), [t for t in reversed(order) if change[t] > 0]),
        (pick("Found worse", "排名下降"), [t for t in order if change[t] < 0]),
    ):
        if not texts:
            continue
        count = pick(
            f"{len(texts):,} of {len(order):,}", f"{len(order):,} 条中的 {len(texts):,} 条"
        )
        table = Table(box=None, pad_edge=False)
        table.add_column(f"{title}: {count}")
        table.add_column(pick("rank", "排名"), justify="right")
        for text in texts[:SHOWN]:
            table.add_row(escape(text), f"{before[text]:,} → {after[text]:,}")
        yield table


def overview(known: list[dict[str, Any]]) -> Table:
    """All runs, one a row."""
    table = Table(box=None, pad_edge=False)
    for head in (
        pick("run", "运行"),
        pick("status", "状态"),
        pick("decision", "决定"),
        pick("time", "用时"),
        pick("why", "原因"),
    ):
        table.add_column(head)
    for run in known:
        table.add_row(
            run["run_id"],
            run["status"],
            run["decision"],
            clock(run["seconds"]),
            escape(escape(run["reason"])),
        )
    return table


def side_by_side(store: Store, chosen: list[dict[str, Any]]) -> Table:
    """Parameters that differ, then the candidates' figures on test."""
    table = Table(title=pick("Compared", "对比"), title_justify="left")
    table.add_column("")
    for run in chosen:
        table.add_column(run["run_id"], justify="right")
    keys = [key for key in chosen[0]["parameters"] if key != "code_version"]
    for key in keys:
        values = [str(run["parameters"].get(key, "")) for run in chosen]
        if len(set(values)) > 1:
            table.add_row(key, *map(escape, values))
    table.add_section()
    results = [evaluation_of(store, run) for run in chosen]
    metrics = [result.get("metrics", {}).get("candidate", {}) for result in results]
    for key in sorted({key for values in metrics for key in values}):
        table.add_row(key, *(f"{100 * v[key]:.1f} %" if key in v else "-" for v in metrics))
    versions = {result.get("split_version", "") for result in results}
    if len(versions) > 1:
        table.caption = pick(
            "The runs were tested on different splits: figures are not comparable.",
            "两次运行的测试集不同，数值不可比较。",
        )
    return table
