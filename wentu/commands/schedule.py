"""`wentu schedule`: runs at set times on a cluster."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
from rich.table import Table

from wentu.commands.cluster import submission, submission_options, where_options
from wentu.commands.options import console as make_console
from wentu.commands.options import make_option
from wentu.commands.submit import show
from wentu.language import pick

USUAL = "wentu"


def command() -> click.Command:
    """The group of the five."""
    group = click.Group("schedule")
    name = make_option("schedule", str, USUAL, pick("Its name.", "名称。"))
    cron = make_option(
        "cron",
        str,
        "",
        pick(
            'When: five fields, "0 2 * * *" for each night at two.',
            '时间：五个字段，如每天凌晨两点 "0 2 * * *"。',
        ),
        required=True,
    )
    zone = make_option(
        "zone",
        str,
        "UTC",
        pick(
            "The time zone that KFP's scheduler runs in (its CRON_SCHEDULE_TIMEZONE).",
            "KFP 调度器所用的时区(其 CRON_SCHEDULE_TIMEZONE)。",
        ),
    )
    as_json = click.Option(["--json"], is_flag=True, help=pick("Print JSON.", "以 JSON 输出。"))
    texts = {
        "apply": ("Make the schedule, or change it.", "创建或修改定时任务。"),
        "list": ("Every schedule and its next times.", "列出定时任务及其下次时间。"),
        "pause": ("Let it not fire for now.", "暂停。"),
        "resume": ("Let it fire again.", "恢复。"),
        "remove": ("Remove it; its runs stay.", "移除；已有运行保留。"),
    }
    options = {
        "apply": [name, cron, zone, *submission_options()],
        "list": [as_json, *where_options()],
        "pause": [name, *where_options()],
        "resume": [name, *where_options()],
        "remove": [name, *where_options()],
    }
    callbacks = {"apply": apply, "list": listed, "pause": pause, "resume": resume, "remove": remove}
    for word, callback in callbacks.items():
        group.add_command(
            click.Command(word, callback=callback, help=pick(*texts[word]), params=options[word])  # type: ignore[arg-type]
        )
    return group


def _cluster(host: str | None, namespace: str | None) -> Any:
    from wentu.orchestrate.kubeflow import PipelinesServer

    return PipelinesServer(host or "", namespace or "")


def apply(schedule: str | None, cron: str, zone: str | None, **given: Any) -> None:
    """Make it what the options say."""
    from wentu.orchestrate import schedule as schedules

    name, zone = schedule or USUAL, zone or "UTC"
    schedules.six_fields(cron)
    schedules.zone_of(zone)
    where = given["host"], given["namespace"]
    done = schedules.apply(_cluster(*where), submission(given), name, cron, zone)
    words = {
        "created": pick("created", "已创建"),
        "replaced": pick("replaced", "已替换"),
        "unchanged": pick("as it was", "没有变化"),
    }
    console = make_console()
    console.print(f"{name}: {words[done]}")
    for moment in schedules.firings(cron, zone):
        console.print(f"  {schedules.spelled(moment, zone)}")


def listed(host: str | None, namespace: str | None, json: bool) -> None:
    """All of them."""
    from wentu.orchestrate import schedule as schedules

    found = schedules.listed(_cluster(host, namespace))
    if json:
        show([asdict(each) | {"next": [t.isoformat() for t in each.next()]} for each in found])
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in (pick("name", "名称"), "cron", pick("state", "状态"), pick("next", "下次")):
        table.add_column(head)
    for each in found:
        state = pick("on", "启用") if each.enabled else pick("paused", "已暂停")
        following = next(iter(schedules.times(each, 1)), "")
        table.add_row(each.name, each.cron, state, following)
    make_console().print(table)


def pause(schedule: str | None, host: str | None, namespace: str | None) -> None:
    """Stop it from firing."""
    from wentu.orchestrate import schedule as schedules

    schedules.pause(_cluster(host, namespace), schedule or USUAL)
    make_console().print(f"{schedule or USUAL}: {pick('paused', '已暂停')}")


def resume(schedule: str | None, host: str | None, namespace: str | None) -> None:
    """Let it fire again, and say when."""
    from dataclasses import replace

    from wentu.orchestrate import schedule as schedules

    found = schedules.resume(_cluster(host, namespace), schedule or USUAL)
    console = make_console()
    console.print(f"{found.name}: {pick('on', '已启用')}")
    for text in schedules.times(replace(found, enabled=True)):
        console.print(f"  {text}")


def remove(schedule: str | None, host: str | None, namespace: str | None) -> None:
    """Remove it."""
    from wentu.orchestrate import schedule as schedules

    schedules.remove(_cluster(host, namespace), schedule or USUAL)
    make_console().print(f"{schedule or USUAL}: {pick('removed', '已移除')}")
