"""`wentu gc`: what nothing needs any more leaves the store, and what deleted pictures left."""

from __future__ import annotations

import click

from wentu.commands.options import console as make_console
from wentu.commands.options import make_command, make_option
from wentu.language import pick
from wentu.settings import store_place
from wentu.store import Store

KEEP, GRACE = 2, 24.0


def command() -> click.Command:
    """The command."""
    keep = pick(
        "Models that stay beside the current one, to roll back to.",
        "除当前模型外保留的模型数，用于回滚。",
    )
    grace = pick(
        "What was written or served in the last so many hours stays: running services and runs "
        "may use it. 0: only while nothing else works on the store.",
        "最近若干小时内写入或使用过的内容不清理，因为正在运行的服务与任务可能用到。"
        "0：仅当没有其他任务使用仓库时使用。",
    )
    made = make_command("gc", execute, [])
    made.params = [
        make_option("store", str, "", pick("The store [WENTU_STORE].", "仓库 [WENTU_STORE]。")),
        make_option("keep", int, KEEP, keep),
        make_option("grace_hours", float, GRACE, grace),
        click.Option(
            ["--dry-run"],
            is_flag=True,
            help=pick("Only say what would be removed.", "只列出将要清理的内容。"),
        ),
    ]
    return made


def execute(store: str | None, keep: int | None, grace_hours: float | None, dry_run: bool) -> None:
    """Collect, and say what came of it."""
    from wentu.gc import collect
    from wentu.gc.sweep import KINDS

    vault, console = Store(store or store_place()), make_console()
    grace = 3600 * (GRACE if grace_hours is None else grace_hours)
    plan = collect(vault, keep=KEEP if keep is None else keep, grace=grace, dry_run=dry_run)
    if plan.waits:
        console.print(
            pick(
                f"What deleted pictures left stays for now: {plan.waits}.",
                f"已删除图片的残留暂不清理：{plan.waits}。",
            )
        )
    elif plan.dead:
        would = pick("would be ", "将") if dry_run else ""
        console.print(
            pick(
                f"{plan.rewritten:,} segments {would}written anew without {plan.dead:,} rows of "
                "deleted or replaced pictures.",
                f"{would}重写 {plan.rewritten:,} 个分段，去掉已删除或被替换图片的 "
                f"{plan.dead:,} 行。",
            )
        )
    total = sum(each.size for each in plan.removed.values())
    told = [
        f"{each.count:,} {pick(*KINDS[kind])} ({readable(each.size)})"
        for kind, each in plan.removed.items()
    ]
    done = pick("Would remove", "将清理") if dry_run else pick("Removed", "已清理")
    nothing = pick("nothing", "无")
    console.print(f"{done}: {', '.join(told) or nothing}; {readable(total)}.", soft_wrap=True)
    console.print(
        pick(f"Release [bold]{plan.release}[/] is current.", f"当前版本 [bold]{plan.release}[/]。")
    )


def readable(size: float) -> str:
    """Bytes for a person: 1.5 MB."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
