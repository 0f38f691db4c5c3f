"""`wentu weights`: get, inspect and convert the weights of models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from wentu.commands.options import console as make_console
from wentu.commands.options import make_option
from wentu.errors import InputError
from wentu.language import pick
from wentu.settings import weights_folder

if TYPE_CHECKING:
    from wentu.clip.checkpoint import Checkpoint


def command() -> click.Command:
    """The group of the three."""
    group = click.Group("weights")
    group.add_command(
        click.Command(
            "get",
            callback=get,
            help=pick("Download pretrained weights.", "下载预训练权重。"),
            params=[
                click.Argument(["name"]),
                make_option(
                    "from",
                    str,
                    "hf",
                    pick(
                        "Hugging Face (or a mirror: HF_ENDPOINT) or ModelScope.",
                        "Hugging Face(可用 HF_ENDPOINT 指定镜像)或 ModelScope。",
                    ),
                    choices=("hf", "modelscope"),
                ),
                make_option(
                    "folder",
                    str,
                    "",
                    pick("Where to put them [WENTU_WEIGHTS].", "存放目录 [WENTU_WEIGHTS]。"),
                ),
            ],
        )
    )
    architecture = make_option(
        "architecture",
        str,
        "",
        pick(
            "Of files whose shapes do not tell (open_clip's): openclip:NAME.",
            "无法由形状推断时(open_clip 的文件)指定架构：openclip:名称。",
        ),
    )
    group.add_command(
        click.Command(
            "inspect",
            callback=inspect,
            help=pick("What a file or folder of weights holds.", "查看权重文件或目录的内容。"),
            params=[click.Argument(["path"]), architecture],
        )
    )
    group.add_command(
        click.Command(
            "convert",
            callback=convert,
            help=pick(
                "Write weights for another program, or join OpenAI's pictures with a Chinese BERT.",
                "为其他程序写出权重，或把 OpenAI 的视觉塔与中文 BERT 合并。",
            ),
            params=[click.Argument(["path"]), architecture, *conversion_options()],
        )
    )
    return group


def conversion_options() -> list[click.Option]:
    """Of ``convert``."""
    from wentu.clip.exchange import KINDS

    return [
        make_option("to", str, "chinese-clip", pick("The form.", "目标形式。"), choices=KINDS),
        make_option(
            "out", str, "", pick("File or folder to write.", "输出文件或目录。"), required=True
        ),
        make_option(
            "text",
            str,
            "",
            pick(
                "A Chinese BERT (Hugging Face folder or file) to be the text tower; PATH is then "
                "OpenAI's CLIP, of which the vision tower is taken.",
                "作为文本塔的中文 BERT(Hugging Face 目录或文件);此时 PATH 为 OpenAI 的 CLIP,"
                "取其视觉塔。",
            ),
        ),
        make_option(
            "seed",
            int,
            0,
            pick("Of the projection that joins the two.", "连接两塔的投影矩阵的随机种子。"),
        ),
    ]


def get(name: str, folder: str | None, **given: str | None) -> None:
    """Download and say where it is."""
    from wentu.clip.download import get as download
    from wentu.progress import Lines

    target = Path(folder).expanduser() if folder else weights_folder()
    for path in download(name, given["from"] or "hf", target, Lines("weights")):
        make_console().print(str(path), soft_wrap=True, highlight=False)


def inspect(path: str, architecture: str | None) -> None:
    """Family, sizes and preprocessing of weights, as a table."""
    from wentu.clip.exchange import describe

    table = Table(box=None, pad_edge=False, show_header=False)
    for what, value in describe(opened(path, architecture)):
        table.add_row(what, value)
    make_console().print(table)


def convert(
    path: str,
    architecture: str | None,
    to: str | None,
    out: str,
    text: str | None,
    seed: int | None,
) -> None:
    """Read, perhaps join, and write."""
    from wentu.clip import exchange
    from wentu.storage import local_path

    target = local_path(out)
    if text:
        found = exchange.combine(local_path(path), local_path(text), seed or 0)
    else:
        found = opened(path, architecture)
    for written in exchange.write(found, to or "chinese-clip", target):
        make_console().print(str(written), soft_wrap=True, highlight=False)


def opened(path: str, architecture: str | None) -> Checkpoint:
    """The weights of a path, or of a name whose weights are on this machine."""
    from wentu.clip.checkpoint import find_weights, is_name, load
    from wentu.storage import local_path

    found = find_weights(path) if is_name(path) else local_path(path)
    if found is None:
        raise InputError(f"{path} has no pretrained weights.", f"{path} 没有预训练权重。")
    return load(found, architecture or (path if path.startswith("openclip:") else ""))
