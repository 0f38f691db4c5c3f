"""The command line. Commands are loaded when they are called: `wentu --help` in under 0.3 s.

A stage's command takes its verb's keyword arguments and its Config's fields as options, so that a
new field is an option without a word here.
"""

from __future__ import annotations

import sys

import click
import typer

from wentu.commands import chinese
from wentu.errors import InputError, WentuError, of_the_system
from wentu.language import pick, set_language
from wentu.stages import STAGES

COMMANDS: dict[str, tuple[str, str, str]] = {
    "run": (
        "wentu.commands.run",
        "The whole pipeline on your collection.",
        "在您的图文集上运行整个流程。",
    ),
    "plan": (
        "wentu.commands.plan",
        "What a run would do: stages, time, disk, memory.",
        "预览一次运行：阶段、时间、磁盘、内存。",
    ),
    "search": (
        "wentu.commands.search",
        "Find pictures by text, by picture, or both.",
        "以文字、图片或两者搜图。",
    ),
    "serve": (
        "wentu.commands.serve",
        "Search over HTTP; follows the store's releases.",
        "以 HTTP 提供搜索服务，自动跟随仓库的新版本。",
    ),
    "classify": (
        "wentu.commands.classify",
        "Which label a picture shows, in percent (zero-shot).",
        "图片属于哪个标签，以百分比表示(零样本)。",
    ),
    "weights": (
        "wentu.commands.weights",
        "Get, inspect and convert pretrained weights.",
        "获取、查看与转换预训练权重。",
    ),
    "compare": ("wentu.commands.compare", "Two runs side by side.", "并排比较两次运行。"),
    "rollback": (
        "wentu.commands.rollback",
        "Go back to an earlier model, keeping new pictures.",
        "回到先前的模型，保留新图片。",
    ),
    "submit": (
        "wentu.commands.submit",
        "The same pipeline on a Kubeflow cluster.",
        "在 Kubeflow 集群上运行同一流程。",
    ),
    "schedule": (
        "wentu.commands.schedule",
        "Runs at set times on a cluster.",
        "集群上的定时运行。",
    ),
    "status": (
        "wentu.commands.status",
        "How runs stand, here and on a cluster.",
        "查看本机与集群上的运行。",
    ),
    "doctor": (
        "wentu.commands.doctor",
        "Is everything there that a run needs?",
        "检查运行所需的一切。",
    ),
    "gc": (
        "wentu.commands.gc",
        "Remove from the store what nothing needs, and what deleted pictures left.",
        "清理仓库中不再需要的内容，以及已删除图片的残留。",
    ),
    "watch": (
        "wentu.commands.watch",
        "Start a run when a bucket tells that pictures came.",
        "存储桶通知有新图片时自动运行。",
    ),
    "unpack": (
        "wentu.commands.unpack",
        "Chinese-CLIP's TSV, JSONL and LMDB into picture files and captions.",
        "把 Chinese-CLIP 的 TSV、JSONL、LMDB 解包为图片文件与描述。",
    ),
    "import": (
        "wentu.commands.import_",
        "Chinese-CLIP's pictures, features and ONNX files into a release.",
        "把 Chinese-CLIP 的图片、特征与 ONNX 文件变为可检索的版本。",
    ),
    "export": (
        "wentu.commands.export",
        "A release's features, predictions and recall in Chinese-CLIP's formats.",
        "以 Chinese-CLIP 的格式导出版本的特征、预测与召回率。",
    ),
    "demo": (
        "wentu.commands.demo",
        "Draw pictures, run everything, search them.",
        "绘制演示图片，运行全部流程并搜索。",
    ),
    "inventory": (
        "",
        "Stage: list the collection; train, refresh or skip.",
        "阶段：清点图文集，决定训练、刷新或跳过。",
    ),
    "pairs": (
        "",
        "Stage: captions and pictures into catalog, splits, TSV + JSONL.",
        "阶段：由描述与图片生成目录、划分、TSV 与 JSONL。",
    ),
    "pack_lmdb": (
        "",
        "Stage: TSV + JSONL into Chinese-CLIP's LMDB.",
        "阶段：由 TSV 与 JSONL 生成 Chinese-CLIP 的 LMDB。",
    ),
    "finetune": ("", "Stage: fine-tune; the best checkpoint.", "阶段：微调，得到最佳检查点。"),
    "export_onnx": (
        "",
        "Stage: a checkpoint into an ONNX bundle, parity proven.",
        "阶段：把检查点导出为 ONNX 模型包并验证一致性。",
    ),
    "evaluate": (
        "",
        "Stage: candidate against champion and start, on test.",
        "阶段：在测试集上比较新模型、现有模型与起始权重。",
    ),
    "features": ("", "Stage: pictures into vectors.", "阶段：把图片变成向量。"),
    "index": (
        "",
        "Stage: vectors into a segment with its FAISS index.",
        "阶段：由向量建立带 FAISS 索引的分段。",
    ),
    "promote": (
        "wentu.commands.promote",
        "Stage: a new release becomes current, or nothing changes.",
        "阶段：发布新版本，否则保持不变。",
    ),
}


class Lazy(click.Group):
    """A group that imports a command's module when that command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        name = name.replace("-", "_")
        if name not in COMMANDS:
            return None
        module, en, zh = COMMANDS[name]
        if module:
            from importlib import import_module

            command: click.Command = import_module(module).command()
        else:
            from wentu.commands.stage import command as stage_command

            command = stage_command(name)
        command.help = pick(en, zh)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, stages in ((pick("Commands", "命令"), False), (pick("Stages", "阶段"), True)):
            rows = [
                (name, pick(en, zh))
                for name, (_, en, zh) in COMMANDS.items()
                if (name in STAGES) == stages
            ]
            with formatter.section(title):
                formatter.write_dl(rows)


def choose_language(words: list[str]) -> None:
    """Set the language that --lang names, wherever among the words it stands."""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        value = following if word == "--lang" else word.removeprefix("--lang=")
        if value in ("en", "zh") and word.startswith("--lang"):
            set_language("zh" if value == "zh" else "en")


def build() -> click.Group:
    """The command line, in the user's language."""
    choose_language(sys.argv[1:])  # before help texts are made
    chinese.install()
    about = pick(
        "Pictures and captions in, a proven Chinese-CLIP and a search engine out.\n\n"
        "Start with: wentu demo",
        "由图片与描述得到经过验证的 Chinese-CLIP 和图片搜索引擎。\n\n从 wentu demo 开始。",
    )
    language = click.Option(
        ["--lang"],
        type=click.Choice(["en", "zh"]),
        expose_value=False,
        is_eager=True,
        help=pick("Language of messages [LANG].", "界面语言 [LANG]。"),
    )
    from wentu import __version__

    group = Lazy(name="wentu", help=about, params=[language], no_args_is_help=True)
    return click.version_option(__version__, prog_name="wentu")(group)


def main() -> None:
    """Entry point: one sentence for a user's mistake, and its exit status."""
    try:
        result = build().main(standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except WentuError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        _say(missing(error))
        sys.exit(InputError.exit_code)
    except OSError as error:  # no room, no permission, a file where a folder should be
        if isinstance(error, BrokenPipeError):
            sys.exit(141)
        _say(of_the_system(error))
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        _say(
            pick(
                "Stopped. The same command goes on where it was.",
                "已停止。再次运行同一命令即可继续。",
            )
        )
        sys.exit(130)


def missing(error: ModuleNotFoundError) -> str:
    """What to install for a package that this installation left out; raises any other error."""
    from wentu.settings import EXTRAS

    package = (error.name or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if package in packages:
            return pick(
                f"this needs the package {package}: pip install 'wentu[{extra}]'.",
                f"需要软件包 {package}：请运行 pip install 'wentu[{extra}]'。",
            )
    raise error


def _say(text: str) -> None:
    typer.secho(
        pick("Error: ", "错误：") + text, err=True, fg="red" if sys.stderr.isatty() else None
    )
