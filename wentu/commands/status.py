"""`wentu status`: how runs stand, here and on a cluster."""

from __future__ import annotations

import os
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wentu.commands.cluster import where_options
from wentu.commands.options import console as make_console
from wentu.commands.options import make_command, make_option
from wentu.commands.submit import show
from wentu.errors import InputError
from wentu.language import pick
from wentu.progress import clock
from wentu.settings import store_place
from wentu.store import Store


def command() -> click.Command:
    """The command."""
    options = [
        make_option("store", str, "", pick("The store [WENTU_STORE].", "仓库 [WENTU_STORE]。")),
        make_option(
            "count", int, 20, pick("How many runs are listed, at most.", "最多列出多少次运行。")
        ),
        click.Option(["--json"], is_flag=True, help=pick("Print JSON.", "以 JSON 输出。")),
        *where_options(),
    ]
    made = make_command("status", execute, options)
    made.params.insert(0, click.Argument(["run"], required=False))
    return made


def execute(
    run: str | None,
    store: str | None,
    count: int | None,
    json: bool,
    host: str | None,
    namespace: str | None,
) -> None:
    """The runs, or one of them with its stages."""
    from wentu.orchestrate.kubeflow import ENDPOINT, PipelinesServer
    from wentu.orchestrate.status import cluster_runs, cluster_status, local_runs, local_status

    vault, console = Store(store or store_place()), make_console()
    asked = host or os.environ.get(ENDPOINT) or os.environ.get("KUBERNETES_SERVICE_HOST")
    server = PipelinesServer(host or "", namespace or "") if asked else None
    here = local_runs(vault)
    most = count or 20
    if run is None:
        there = cluster_runs(server, most) if server else []
        found = sorted([*here, *there], key=lambda each: str(each["started"]))[-most:]
        if json:
            show(found)
        else:
            console.print(overview(found))
        return
    fits = [each for each in here if run in (each["run_id"], each["run_id"][-len(run) :])]
    fits = fits or [each for each in here if each["run_id"].startswith(run)]
    if len(fits) == 1:
        one, view = local_status(vault, fits[0]["run_id"])
    elif server:
        one, view = cluster_status(server, run, console)
    else:
        ids = ", ".join(each["run_id"] for each in (fits or here)[-10:]) or "-"
        raise InputError(
            f"{run} names {len(fits)} runs here; known: {ids}. Of a cluster: add --host.",
            f"{run} 在本机对应 {len(fits)} 次运行；已有：{ids}。查询集群请加 --host。",
        )
    if json:
        show(one)
    else:
        draw(one, view.table(), console)


def overview(found: list[dict[str, Any]]) -> Table:
    """Runs, one a row."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    heads = (("run", "运行"), ("where", "位置"), ("status", "状态"), ("decision", "决定"))
    for head in (*heads, ("time", "用时"), ("started", "开始")):
        table.add_column(pick(*head), overflow="fold")
    where = {"local": pick("here", "本机"), "cluster": pick("cluster", "集群")}
    for each in found:
        table.add_row(
            each["run_id"],
            where[each["where"]],
            each["status"],
            each["decision"],
            clock(each["seconds"]),
            each["started"],
        )
    return table


def draw(one: dict[str, Any], table: Table, console: Console) -> None:
    """One run: what is known of the whole, then its stages."""
    why = ": ".join(each for each in (one["decision"], one["reason"]) if each)
    head = f"{one['run_id']}  {one['status']}  {clock(one['seconds'])}  {why}".rstrip()
    console.print(escape(head), soft_wrap=True)
    if one["url"]:
        console.print(one["url"], soft_wrap=True)
    console.print(table)
    if one["error"] and not any(each["error"] for each in one["stages"]):
        console.print(escape(one["error"]), soft_wrap=True)
