"""Options, commands and the console, made the same way for every command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from wentu.language import pick


def make_option(
    name: str,
    kind: Any,
    default: Any,
    text: str,
    *,
    required: bool = False,
    choices: tuple[str, ...] = (),
    multiple: bool = False,
) -> click.Option:
    """One option; None means "not given", so that presets can fill it in."""
    flag = "--" + name.replace("_", "-")
    shown = None if default in (None, "") else str(default)
    if kind is bool:
        shown = flag if default else f"--no-{flag[2:]}"
        names, kind = [f"{flag}/--no-{flag[2:]}"], None
    else:
        names = [flag]
    if shown:
        text += f"  [{pick('default', '默认')}: {shown}]"
    return click.Option(
        names,
        type=click.Choice(choices) if choices else kind,
        help=text,
        **({"required": True} if required else {"default": None}),
        multiple=multiple,
    )


def make_command(
    name: str, function: Callable[..., Any], options: list[click.Option]
) -> click.Command:
    """A command that calls ``function`` with its options as keyword arguments."""
    return click.Command(name, callback=function, params=list(options))


def console() -> Any:
    """A rich console on the stdout of now: the runner redirects stdout while a pipeline runs."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False)
