"""`wentu submit`: the options of `run`; the same pipeline on a cluster."""

from __future__ import annotations

import json
from typing import Any

import click

from wentu.commands.cluster import submission, submission_options
from wentu.commands.options import console as make_console
from wentu.commands.options import make_command, make_option
from wentu.language import pick


def command() -> click.Command:
    """The command."""
    own = [
        make_option("run_name", str, "", pick("What the run is called.", "运行的名称。")),
        click.Option(
            ["--wait"],
            is_flag=True,
            help=pick(
                "Follow the run; the exit status is not 0 where it fails.",
                "跟踪运行直到结束；失败时退出码不为 0。",
            ),
        ),
        click.Option(
            ["--once"],
            is_flag=True,
            help=pick(
                "Where a run called --run-name is there already, follow it and send nothing.",
                "若已有名为 --run-name 的运行，则跟随它，不再提交。",
            ),
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            help=pick("Print the run as JSON.", "以 JSON 输出运行。"),
        ),
    ]
    return make_command("submit", execute, [*own, *submission_options()])


def execute(run_name: str | None, wait: bool, once: bool, json: bool, **given: Any) -> None:
    """Check, send, say where it is; follow it if asked.

    once: where a run of that name is there already, it is this one, and nothing is sent.
    """
    from wentu.orchestrate.kubeflow import PipelinesServer

    host, namespace = given["host"] or "", given["namespace"] or ""
    sent = submission(given)
    server = PipelinesServer(host, namespace)
    there = server.named_run(run_name) if once and run_name else ""
    run_id = there or server.submit(sent, run_name or "")
    console = make_console()
    if not json:
        console.print(pick("Submitted: ", "已提交：") + server.url(run_id), soft_wrap=True)
    if wait:
        follow(server, run_id, console, as_json=json)
    elif json:
        show({"run_id": run_id, "url": server.url(run_id)})


def follow(server: Any, run_id: str, console: Any, *, as_json: bool) -> None:
    """Wait for the end of a run; Ctrl-C leaves it running."""
    import io

    from rich.console import Console

    from wentu.orchestrate.status import wait

    try:
        found = wait(server, run_id, Console(file=io.StringIO()) if as_json else console)
    except KeyboardInterrupt:
        console.print(
            pick(
                f"The run goes on: wentu status {run_id}",
                f"运行仍在继续：wentu status {run_id}",
            ),
            soft_wrap=True,
        )
        raise SystemExit(130) from None
    if as_json:
        show(found)
    else:
        console.print(
            pick(
                f"Done in {found['seconds']:.0f} s ({found['decision']}).",
                f"完成，用时 {found['seconds']:.0f} 秒({found['decision']})。",
            )
        )


def show(value: Any) -> None:
    """JSON on stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))
