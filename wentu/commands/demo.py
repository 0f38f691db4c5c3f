"""`wentu demo`: draw pictures, run everything, search them, and show what came of it."""

from __future__ import annotations

import random
from pathlib import Path

import click
from rich.console import Console

from wentu.commands.options import console as make_console
from wentu.commands.options import make_command, make_option
from wentu.commands.run import execute as run
from wentu.commands.search import result_table
from wentu.language import pick
from wentu.orchestrate.parameters import complete
from wentu.search.engine import Engine

QUERIES = 3


def command() -> click.Command:
    """The command."""
    made = make_command("demo", execute, [])
    made.params = [
        click.Option(
            ["--folder"],
            default="wentu-demo",
            show_default=True,
            type=click.Path(),
            help=pick("Where to draw and to work.", "绘图与工作的目录。"),
        ),
        click.Option(
            ["--seed"],
            type=int,
            default=0,
            show_default=True,
            help=pick(
                "Of the drawings, the split, and the training.", "绘图、划分与训练的随机种子。"
            ),
        ),
        make_option("epochs", int, "", pick("Passes over the training pairs.", "训练轮数。")),
    ]
    return made


def execute(folder: str, seed: int, epochs: int | None) -> None:
    """The demo, start to finish."""
    from wentu.demo import make_collection

    console, root = make_console(), Path(folder)
    pictures, store = root / f"collection-{seed}", str(root / f"store-{seed}")
    console.print(
        pick(f"Drawing 1,920 pictures into {pictures}", f"正在绘制 1,920 张图片：{pictures}")
    )
    make_collection(pictures, seed)
    given = {
        "pictures": str(pictures),
        "captions": str(pictures),
        "store": store,
        "seed": seed,
        "epochs": epochs,
    }
    run(complete(given, "demo"), console)
    sheet = root / f"searches-{seed}.png"
    search(store, sheet, seed, console)
    console.print(
        pick("\nAll three as pictures: ", "\n三次搜索的图片结果：") + str(sheet), soft_wrap=True
    )
    farewell(pictures, store, console)


def search(store: str, sheet: Path, seed: int, console: Console) -> None:
    """Three searches with captions of pictures that training never saw, and a contact sheet."""
    from wentu import report

    engine = Engine.open(store)
    captions = list(engine.example_captions("test", 300))
    rows = []
    for text in random.Random(seed).sample(captions, QUERIES):
        hits = engine.search(text, k=8)
        console.print(f"\n[bold]{pick('Search', '搜索')}: {text}[/]")
        console.print(result_table(hits[:3]))
        shots = [
            (engine.thumbnail(hit.id), f"{i}. {hit.score:.3f}") for i, hit in enumerate(hits, 1)
        ]
        rows.append((text, shots))
    report.contact_sheet(rows, sheet)
    engine.close()


def farewell(pictures: Path, store: str, console: Console) -> None:
    """What to type next."""
    lines = [
        (f"export WENTU_STORE={store}", ""),
        ("wentu serve", pick("search on a web page", "在网页上搜索")),
        ('wentu search "红色月牙" -k 5 --sheet found.png', pick("search by text", "以文搜图")),
        (
            f"wentu search --picture {pictures}/pictures/0000.png",
            pick("search by picture", "以图搜图"),
        ),
        (
            f"wentu run --pictures {pictures} --captions {pictures} --preset demo",
            pick("again: nothing new, skipped in seconds", "再次运行：没有新内容，几秒内跳过"),
        ),
        (
            "wentu run --pictures DIR --captions captions.json --model tiny --scratch",
            pick("your own pictures", "使用您自己的图片"),
        ),
        (
            f"mlflow ui --backend-store-uri sqlite:///{store}/mlflow/mlflow.db",
            pick("compare runs in MLflow", "在 MLflow 中比较运行"),
        ),
    ]
    console.print(pick("\nNext:", "\n接下来可以："))
    for line, what in lines:
        console.print(
            f"  {line}" + (f"   [dim]# {what}[/]" if what else ""), highlight=False, soft_wrap=True
        )
