"""`wentu plan`: the options of `run`; says what it would do."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wentu.commands.options import console as make_console
from wentu.commands.options import make_command
from wentu.commands.run import complete, run_options
from wentu.language import pick
from wentu.orchestrate.parameters import presets
from wentu.progress import clock


def command() -> click.Command:
    """The command."""
    return make_command("plan", execute, run_options())


def execute(**given: Any) -> None:
    """Estimate and print."""
    from wentu.orchestrate.estimate import estimate

    preset, console = given.get("preset"), make_console()
    found = estimate(complete(given))
    if preset:
        show_preset(preset, console)
    words = {
        "train": pick("train", "训练"),
        "refresh": pick("refresh the index", "刷新索引"),
        "skip": pick("do nothing", "无需执行"),
    }
    console.print(
        pick(
            f"A run now would [bold]{words[found.decision]}[/]: {found.reason}.",
            f"现在运行将[bold]{words[found.decision]}[/]:{found.reason}。",
        )
    )
    console.print(
        pick(
            f"{found.pictures:,} pictures, {found.pairs:,} training pairs.",
            f"{found.pictures:,} 张图片，{found.pairs:,} 个训练图文对。",
        )
    )
    table = Table(box=None, pad_edge=False)
    table.add_column(pick("stage", "阶段"))
    table.add_column(pick("about", "约"), justify="right")
    for name, seconds in found.seconds.items():
        table.add_row(name, clock(seconds))
    table.add_section()
    table.add_row(pick("time", "总用时"), clock(sum(found.seconds.values())))
    table.add_row(pick("disk", "磁盘"), size(sum(found.disk.values())))
    table.add_row(pick("memory", "内存"), size(found.memory))
    if found.gpu_memory:
        table.add_row(pick("or on a GPU", "或显存"), size(found.gpu_memory))
    console.print(table)
    if found.missing:
        console.print(pick("Before a run: ", "运行之前：") + found.missing, highlight=False)
    console.print(
        pick(
            "Estimates: times within a factor of two, memory of a training within about 15 %.",
            "估算值：时间误差可达一倍，训练内存误差约 15 %。",
        )
    )


def show_preset(name: str, console: Console) -> None:
    """What a preset is made for, where it comes from, and what to expect of it."""
    about = presets()[name]["about"]
    labels = {
        "source": pick("source", "来源"),
        "time": pick("time", "时间"),
        "memory": pick("memory", "内存"),
        "expect": pick("expect", "预期"),
    }
    console.print(f"[bold]{name}[/]: {pick(about['en'], about['zh'])}")
    for key, label in labels.items():
        console.print(f"  {label}: {escape(pick(**about[key]))}", highlight=False)


def size(count: float) -> str:
    """Bytes as MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1.0, count / 1e6):.0f} MB"
