"""`wentu watch`: a bucket tells that pictures came, and a run starts."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from wentu.commands.options import make_command, make_option
from wentu.errors import InputError
from wentu.language import pick
from wentu.settings import is_loopback, store_place

DEFAULTS = {"host": "127.0.0.1", "port": 8080, "quiet_seconds": 60.0, "at_most_seconds": 900.0}

FOLLOWING = ("run_name", "wait", "once", "json")
"""Options of `submit` that are about the submission itself."""


def command() -> click.Command:
    """The command."""
    texts = {
        "host": pick(
            "Address to listen on; another than this machine's own needs WENTU_TOKEN.",
            "监听地址；非本机地址需要设置 WENTU_TOKEN。",
        ),
        "port": pick("Port to listen on.", "监听端口。"),
        "quiet_seconds": pick(
            "Start when no event came for so long.", "连续多少秒没有新事件后开始运行。"
        ),
        "at_most_seconds": pick(
            "Start so long after the first event at the latest.", "首个事件之后最多等待多少秒。"
        ),
    }
    made = make_command("watch", execute, [])
    made.params = [
        make_option(name, type(DEFAULTS[name]), DEFAULTS[name], text)
        for name, text in texts.items()
    ]
    made.params += [
        make_option(
            "state",
            str,
            "",
            pick(
                "Folder for what must outlive a restart. Default: watch, where the store keeps "
                "what is this machine's.",
                "保存待处理事件的目录，重启后继续。默认：仓库本机目录下的 watch。",
            ),
        ),
        click.Option(
            ["--submit"],
            is_flag=True,
            help=pick(
                "Submit to the cluster (`wentu submit`) instead of running here.",
                "提交到集群(wentu submit)，而不是在本机运行。",
            ),
        ),
        click.Argument(["words"], nargs=-1, type=click.UNPROCESSED, metavar="-- OPTIONS OF RUN"),
    ]
    return made


def execute(words: tuple[str, ...], submit: bool, state: str | None, **given: Any) -> None:
    """Listen until asked to end."""
    from wentu.orchestrate.receiver import Command, Debounce, Receiver

    where: dict[str, Any] = {
        name: default if given[name] is None else given[name] for name, default in DEFAULTS.items()
    }
    token = os.environ.get("WENTU_TOKEN", "").strip()
    if not is_loopback(where["host"]) and not token:
        raise InputError(
            f"--host {where['host']}: whoever reaches it could start runs; set WENTU_TOKEN, which "
            "the bucket's notifications then have to bring.",
            f"--host {where['host']}：任何能访问的人都可以触发运行；请设置 WENTU_TOKEN，"
            "并让存储桶通知携带它。",
        )
    if submit:
        check_submit(words)
    interest = interest_of(words, check=not submit)
    folder = Path(state).expanduser() if state else _home(interest.store) / "watch"
    starts = [sys.executable, "-m", "wentu", "submit" if submit else "run", *words]
    if submit and "--wait" not in words:
        starts.append("--wait")  # else the next one would not know that this one goes on
    started = Command(starts)
    with _alone(folder):
        debounce = Debounce(
            folder,
            started,
            quiet=where["quiet_seconds"],
            at_most=where["at_most_seconds"],
            tell=say,
            named=submit,
        )
        try:
            server = Receiver(
                (where["host"], where["port"]),
                token=token,
                interest=interest,
                debounce=debounce,
                tell=say,
            )
        except (OSError, OverflowError) as error:
            raise InputError(
                f"cannot listen on {where['host']}:{where['port']} ({error}); choose another "
                "--host or --port.",
                f"无法监听 {where['host']}:{where['port']}({error})；请换用其他 --host 或 --port。",
            ) from None
        say(
            pick(
                f"listening on http://{where['host']}:{server.server_port}/events for "
                f"{interest.pictures}",
                f"正在 http://{where['host']}:{server.server_port}/events 监听 "
                f"{interest.pictures} 的通知",
            )
        )
        serve(server, debounce, started)


def serve(server: Any, debounce: Any, started: Any) -> None:
    """Until SIGTERM or Ctrl-C; then a run at work is ended, and taken up at the next start."""

    def end(*_: object) -> None:
        threading.Thread(target=server.shutdown, daemon=True).start()

    before = [signal.signal(each, end) for each in (signal.SIGTERM, signal.SIGINT)]
    following = threading.Thread(target=debounce.follow, daemon=True)
    following.start()
    try:
        server.serve_forever(poll_interval=0.2)
    finally:
        debounce.stop()
        started.end()
        following.join(5)
        server.server_close()
        for each, old in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(each, old)


def check_submit(words: Sequence[str]) -> None:
    """Refuse what `submit` would refuse of its options, but for what lies in the bucket.

    That need not be there yet, nor its server answer, when the receiver starts.
    """
    from wentu.commands.cluster import NOT_RUN
    from wentu.commands.submit import command as submit
    from wentu.orchestrate.kubeflow import need_remote
    from wentu.orchestrate.parameters import config_of, named
    from wentu.orchestrate.profile import read_profile
    from wentu.stages import STAGES

    given = submit().make_context("submit", list(words)).params
    own = {name: given.pop(name) for name in (*NOT_RUN, *FOLLOWING)}
    given["captions"] = "\n".join(given["captions"] or ()) or "none"
    values = named(given, given.pop("preset"))
    need_remote(values)
    for stage in STAGES:
        config_of(stage, values)
    read_profile(Path(own["profile"]) if own["profile"] else None)


def interest_of(words: Sequence[str], *, check: bool) -> Any:
    """What the options of a run say of where pictures, captions and store are.

    Raises InputError where pictures are in no bucket, or where `run` has no such option (check).
    """
    from wentu.orchestrate.receiver import Interest
    from wentu.storage import is_remote

    if check:
        from wentu.commands.run import command as run

        run().make_context("run", list(words))
    given: dict[str, list[str]] = {"pictures": [], "captions": [], "store": []}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and name in given:
            given[name].append(value if equals else following)
    pictures = (given["pictures"] or [""])[-1]
    if not is_remote(pictures):
        raise InputError(
            "a bucket tells of pictures: wentu watch … -- --pictures s3://bucket/prefix … (after "
            "the two dashes, the options of `wentu run`).",
            "只有存储桶会发送通知：wentu watch … -- --pictures s3://桶/前缀 …"
            "(两个短横之后是 wentu run 的选项)。",
        )
    store = (given["store"] or [store_place()])[-1]
    return Interest(pictures=pictures, captions=tuple(given["captions"]), store=store)


def _home(store: str) -> Path:
    from wentu.store import Store

    return Store(store).storage.home


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One receiver for a state folder: of two, each would start runs for the other's events."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "alive").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another `wentu watch` uses {folder}; end it, or give another --state.",
                f"另一个 wentu watch 正在使用 {folder}；请先结束它，或用 --state 另行指定。",
            ) from None
        yield


def say(text: str) -> None:
    """A line with the time, for a log."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} watch: {text}", flush=True)
