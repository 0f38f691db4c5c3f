"""`wentu doctor`: is everything there that a run needs?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from wentu.commands.cluster import profile_option, where_options
from wentu.commands.options import console as make_console
from wentu.commands.options import make_command, make_option
from wentu.commands.submit import show
from wentu.language import pick
from wentu.settings import store_place

MARKS = {"ok": "[green]✓", "warn": "[yellow]!", "fail": "[red]✗", "-": "[dim]·"}


def command() -> click.Command:
    """The command."""
    options = [
        make_option("store", str, "", pick("The store [WENTU_STORE].", "仓库 [WENTU_STORE]。")),
        make_option(
            "pictures", str, "", pick("Pictures that should be readable.", "应可读取的图片。")
        ),
        *where_options(),
        profile_option(),
        click.Option(
            ["--notify"],
            is_flag=True,
            help=pick("Send a test notice to WENTU_WEBHOOK.", "向 WENTU_WEBHOOK 发送测试通知。"),
        ),
        click.Option(["--json"], is_flag=True, help=pick("Print JSON.", "以 JSON 输出。")),
    ]
    return make_command("doctor", execute, options)


def execute(
    store: str | None,
    pictures: str | None,
    host: str | None,
    namespace: str | None,
    profile: str | None,
    notify: bool,
    json: bool,
) -> None:
    """Look, say, and leave with 1 where something fails."""
    from wentu.orchestrate.doctor import examine
    from wentu.orchestrate.profile import read_profile

    found = list(
        examine(
            store=store or store_place(),
            profile=read_profile(Path(profile) if profile else None),
            pictures=pictures or "",
            host=host or "",
            namespace=namespace or "",
            notify=notify,
        )
    )
    if json:
        show([asdict(each) for each in found])
    else:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        table.add_column()
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for each in found:
            text = escape(each.found)
            if each.advice:
                text += f"\n→ {escape(each.advice)}"
            table.add_row(MARKS[each.state], each.name, text)
        make_console().print(table)
    if any(each.state == "fail" for each in found):
        click.get_current_context().exit(1)
