"""`wentu unpack`: Chinese-CLIP's TSV, JSONL and LMDB into ordinary picture files and captions."""

from __future__ import annotations

import click

from wentu.commands.options import console as make_console
from wentu.commands.options import make_command, make_option
from wentu.language import pick


def command() -> click.Command:
    """The command."""
    made = make_command("unpack", execute, [])
    made.params = [
        click.Argument(["source"], nargs=-1, required=True),
        make_option(
            "out",
            str,
            "",
            pick(
                "Folder for pictures/ and {split}.json.", "写入 pictures/ 与 {split}.json 的目录。"
            ),
            required=True,
        ),
    ]
    return made


def execute(source: tuple[str, ...], out: str) -> None:
    """Unpack, and say how to go on."""
    from wentu.interchange.sources import find_sources
    from wentu.interchange.unpack import PICTURES, unpack
    from wentu.progress import Lines
    from wentu.storage import local_path

    sources, folder = find_sources(source), local_path(out)
    counts = unpack(sources, folder, Lines("unpack"))
    captions = str(folder) if counts.captions else "none --no-train"
    following = f"wentu run --pictures {folder / PICTURES} --captions {captions}"
    console = make_console()
    console.print(f"{counts}.", soft_wrap=True, markup=False)
    console.print(
        pick(f"Go on with: {following}", f"接下来：{following}"), soft_wrap=True, markup=False
    )
