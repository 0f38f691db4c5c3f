"""click's own words in Chinese: usage, headings, and what it says of a wrong command line.

click looks its sentences up with gettext, which wants a catalogue file; ours stand beside each
other like every other sentence here, so what it looks them up with is replaced.
"""

from __future__ import annotations

import click.core
import click.decorators
import click.exceptions
import click.formatting
import click.parser
import click.types

from wentu.language import language

MODULES = (
    click.core,
    click.decorators,
    click.exceptions,
    click.formatting,
    click.parser,
    click.types,
)
WORDS = {
    "Usage:": "用法：",
    "Options": "选项",
    "Commands": "命令",
    "Show this message and exit.": "显示本帮助。",
    "Show the version and exit.": "显示版本。",
    "Error: {message}": "错误：{message}",
    "Try '{command} {option}' for help.": "运行 {command} {option} 查看帮助。",
    "default: {default}": "默认：{default}",
    "Missing option": "缺少选项",
    "Missing argument": "缺少参数",
    "Missing command.": "缺少命令。",
    "No such option {name!r}.": "没有选项 {name}。",
    "No such command {name!r}.": "没有命令 {name}。",
    "Did you mean {possibility}?": "是否要用 {possibility}？",
    "(Did you mean one of: {possibilities}?)": "是否要用其中之一：{possibilities}？",
    "Invalid value: {message}": "值无效：{message}",
    "Invalid value for {param_hint}: {message}": "{param_hint} 的值无效：{message}",
    "{value!r} is not {choice}.": "{value!r} 应为 {choice}。",
    "{value!r} is not one of {choices}.": "{value!r} 不在 {choices} 之中。",
    "{value!r} is not a valid {number_type}.": "{value!r} 不是有效的 {number_type}。",
    "Choose from:\n\t{choices}": "可选：\n\t{choices}",
    "Option {name!r} requires an argument.": "选项 {name} 需要一个值。",
    "Option {name!r} requires {nargs} arguments.": "选项 {name} 需要 {nargs} 个值。",
    "Option {name!r} does not take a value.": "选项 {name} 不带值。",
    "Got unexpected extra argument ({args})": "多余的参数：{args}",
    "Got unexpected extra arguments ({args})": "多余的参数：{args}",
}


def install() -> None:
    """Let click speak the user's language from now on."""
    for module in MODULES:
        for name, function in (("_", one), ("ngettext", one_or_many)):
            if hasattr(module, name):
                setattr(module, name, function)


def one(words: str) -> str:
    """A sentence of click's."""
    return WORDS.get(words, words) if language() == "zh" else words


def one_or_many(single: str, plural: str, count: int) -> str:
    """The same, where the number decides."""
    return one(single if count == 1 else plural)
