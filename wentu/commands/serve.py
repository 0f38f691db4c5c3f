"""`wentu serve`: the search service. Whoever can reach it may search: so it asks who may."""

from __future__ import annotations

import os
import socket
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from wentu.commands import library
from wentu.commands.options import make_command, make_option
from wentu.errors import InputError
from wentu.language import pick
from wentu.settings import is_loopback, store_place

if TYPE_CHECKING:
    from wentu.commands.library import Served
    from wentu.search.board import Board
    from wentu.search.engine import Engine
    from wentu.search.guard import Rules
    from wentu.search.rate import Rate

GRACE = 5
"""Seconds that answers under way are given when the service is asked to end."""
BACKLOG = 1024
"""Connections that wait to be accepted; the system may allow fewer."""
USUAL_RATE = 50.0
"""Queries a second that a client may send, where others than this machine are let in."""
MOST_WORKERS = 64


def command() -> click.Command:
    """The command."""
    made = make_command("serve", execute, [])
    made.params = [
        make_option("store", str, "", pick("The store [WENTU_STORE].", "仓库 [WENTU_STORE]。")),
        make_option(
            "host",
            str,
            "127.0.0.1",
            pick(
                "Address to listen on; any but this machine's own needs WENTU_TOKEN.",
                "监听地址；非本机地址需要设置 WENTU_TOKEN。",
            ),
        ),
        make_option(
            "port", int, 8000, pick("Port to listen on; 0: a free one.", "端口；0：任选。")
        ),
        make_option(
            "collection",
            str,
            "",
            pick(
                "Where the pictures lie, to hand out originals [as when they were indexed].",
                "图片所在位置，用于提供原图 [与建立索引时相同]。",
            ),
        ),
        *safety(),
        *library.options(),
    ]
    return made


def safety() -> list[click.Option]:
    """Who may ask, how much, and how it is shared out."""
    return [
        click.Option(
            ["--no-token"],
            is_flag=True,
            help=pick("Let everybody in who can reach it.", "允许任何能访问到的人使用。"),
        ),
        make_option(
            "allow_host",
            str,
            "",
            pick(
                "A name that the service may be called by; repeat  [default: on 127.0.0.1 its own, "
                "else any].",
                "允许的访问域名，可重复 [默认：在 127.0.0.1 上为本机名称，否则不限]。",
            ),
            multiple=True,
        ),
        make_option(
            "root_path",
            str,
            "",
            pick(
                "Path below which a proxy shows it, as /search.", "代理所用的路径，例如 /search。"
            ),
        ),
        make_option(
            "max_upload",
            float,
            20.0,
            pick("Largest picture that may be uploaded, MB.", "上传图片的最大尺寸(MB)。"),
        ),
        make_option(
            "workers",
            int,
            1,
            pick(
                "Processes that answer; one that dies is started again.",
                "提供服务的进程数；异常退出的进程会重新启动。",
            ),
        ),
        make_option(
            "rate",
            float,
            None,
            pick(
                "Queries a second that one client may send; 0: any number  [default: 50; on "
                "127.0.0.1 any number].",
                "每个客户端每秒的查询上限；0：不限 [默认：50；在 127.0.0.1 上不限]。",
            ),
        ),
        click.Option(
            ["--trust-proxy"],
            is_flag=True,
            help=pick(
                "Take the client's address from the proxy before it (X-Forwarded-For).",
                "从前置代理的 X-Forwarded-For 获取客户端地址。",
            ),
        ),
    ]


def execute(
    store: str | None,
    host: str | None,
    port: int | None,
    collection: str | None,
    no_token: bool,
    allow_host: tuple[str, ...],
    root_path: str | None,
    max_upload: float | None,
    workers: int | None,
    rate: float | None,
    trust_proxy: bool,
    **own: Any,
) -> None:
    """Serve until asked to end."""
    need_packages()
    given = bool(os.environ.get("WENTU_TOKEN", "").strip())
    host = library.lan_host(own["lan"], host, no_token)
    address, number = host or "127.0.0.1", 8000 if port is None else port
    rules = replace(
        rules_for(
            address,
            no_token,
            allow_host,
            20.0 if max_upload is None else max_upload,
            proxied=trust_proxy,
        ),
        root_path=(root_path or "").rstrip("/"),
        rate=rate_for(address, rate, trust_proxy),
        trust_proxy=trust_proxy,
    )
    count = checked(1 if workers is None else workers)
    found = library.served(store=store or "", collection=collection or "", **own)
    place = found.store or store_place()
    listening = bound(address, number)
    url = address_of(address, listening.getsockname()[1], root_path or "")
    click.echo(pick(f"{url}  (store {place})", f"{url}  (仓库 {place})"))
    if own["lan"]:
        click.echo(library.invitation(url, rules.token, known=given))
    if count == 1:
        answer(listening, place, rules, found, None, 0)
    else:
        share(listening, place, rules, found, count)


def share(listening: socket.socket, place: str, rules: Rules, served: Served, count: int) -> None:
    """Answer in several processes until asked to end."""
    from wentu.search.board import AWAY, Board
    from wentu.search.guard import log
    from wentu.search.workers import supervise

    board = Board(count)

    def died(number: int, status: int) -> None:
        board.set(number, AWAY)
        code = os.waitstatus_to_exitcode(status)
        how = f"signal {-code}" if code < 0 else f"status {code}"
        log.warning(
            "%s",
            pick(
                f"worker {number} ended ({how}); another takes its place.",
                f"工作进程 {number} 已退出({how})；将启动新的进程。",
            ),
        )

    def work(number: int) -> None:
        answer(listening, place, rules, served, board, number)

    listening.listen(BACKLOG)  # before there is one who accepts, and while another takes its place
    supervise(count, work, 2 * GRACE, died)


def answer(
    listening: socket.socket,
    place: str,
    rules: Rules,
    served: Served,
    board: Board | None,
    worker: int,
) -> None:
    """Answer in this process until asked to end."""
    import uvicorn

    from wentu.search.app import create_app
    from wentu.search.connections import Limits, protocol
    from wentu.search.current import Current
    from wentu.search.service import Service
    from wentu.store import Store

    def tell(engine: Engine) -> None:
        if worker == 0:  # the others follow within seconds
            click.echo(serving(engine))

    service = Service(
        current=Current(Store(place), tell=tell),
        rules=rules,
        collection=served.collection,
        library=served.status,
        board=board,
        worker=worker,
    )
    config = uvicorn.Config(
        create_app(service),
        http=protocol(Limits(trust_proxy=rules.trust_proxy)),
        log_level="warning",
        access_log=False,  # what people look for is theirs
        server_header=False,
        proxy_headers=False,  # the guard reads them, where they are to be believed
        timeout_graceful_shutdown=GRACE,
        backlog=BACKLOG,
        ws="none",
    )
    with served.following if worker == 0 else nullcontext():
        uvicorn.Server(config).run([listening])


def need_packages() -> None:
    """InputError where the service's are not installed. Nothing is imported: it takes a second, and
    what has threads cannot be forked."""
    needed = ("faiss", "fastapi", "onnxruntime", "python_multipart", "uvicorn")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise InputError(
            f"the service needs more packages ({', '.join(missing)}): pip install 'wentu[serve]'.",
            f"服务需要更多软件包({'、'.join(missing)})：pip install 'wentu[serve]'。",
        )


def rate_for(host: str, given: float | None, trust_proxy: bool) -> Rate | None:
    """How much a client may ask; None: any number. InputError where it is none."""
    from wentu.search.rate import Rate

    if given is None:
        given = 0.0 if is_loopback(host) and not trust_proxy else USUAL_RATE
    if not 0 <= given <= 1e6:
        raise InputError(
            f"--rate {given:g}: give queries a second, or 0 for any number.",
            f"--rate {given:g}：应为每秒查询数，0 表示不限。",
        )
    return Rate(given) if given else None


def checked(workers: int) -> int:
    """How many processes; InputError where that cannot be."""
    if not 1 <= workers <= MOST_WORKERS:
        raise InputError(
            f"--workers {workers}: give 1 to {MOST_WORKERS}.",
            f"--workers {workers}：应为 1 到 {MOST_WORKERS}。",
        )
    return workers


def rules_for(
    host: str,
    no_token: bool,
    allowed: tuple[str, ...],
    max_upload: float,
    *,
    proxied: bool = False,
) -> Rules:
    """Who may ask; InputError where everybody could, and nobody said so.

    Who comes through a proxy on this machine comes from its own address: so where a proxy is
    spoken of, or another name than this machine's own, a token is needed there too.
    """
    from wentu.search.guard import LOOPBACK_NAMES, Rules

    token, own = os.environ.get("WENTU_TOKEN", "").strip(), is_loopback(host)
    foreign = [name for name in allowed if not is_loopback(name)]
    if no_token and token:
        raise InputError(
            "--no-token, and WENTU_TOKEN is set: leave one of them away.",
            "同时给出了 --no-token 与 WENTU_TOKEN：请只保留一个。",
        )
    if not (token or no_token or own):
        raise InputError(
            f"--host {host} lets others in: set WENTU_TOKEN to a long secret that callers show "
            "(Authorization: Bearer …), or say --no-token.",
            f"--host {host} 会对其他机器开放：请把 WENTU_TOKEN 设为一个较长的密钥，"
            "由调用者出示(Authorization: Bearer …)，或使用 --no-token。",
        )
    if not (token or no_token) and (proxied or foreign):
        word = "--trust-proxy" if proxied else f"--allow-host {foreign[0]}"
        raise InputError(
            f"{word}: who comes through a proxy is let in as this machine is; set WENTU_TOKEN to a "
            "long secret, or say --no-token (where the proxy itself asks who may).",
            f"{word}：经代理的访问会被视为本机访问；请把 WENTU_TOKEN 设为一个较长的密钥，"
            "或使用 --no-token(由代理自行验证访问者时)。",
        )
    if max_upload <= 0:
        raise InputError(
            f"--max-upload {max_upload:g}: give more than 0 MB.",
            f"--max-upload {max_upload:g}：应大于 0 MB。",
        )
    names = tuple(name.lower().strip("[]") for name in allowed)
    if own:
        names += (*LOOPBACK_NAMES, host.lower().strip("[]"))
    return Rules(token=token, hosts=names, most_bytes=int(max_upload * 1_000_000))


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there; InputError where it cannot."""
    if not 0 <= port < 65536:  # else a libc takes what is left of its lower bits
        raise InputError(f"--port {port}: give 0 to 65535.", f"--port {port}：应为 0 到 65535。")
    listening = None
    try:
        kind, _, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # asyncio sends at once (TCP_NODELAY) only on sockets that say that they are TCP; else the
        # second piece of an answer waits for a delayed acknowledgement, 40 ms.
        listening = socket.socket(kind, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        if listening:
            listening.close()
        why = error.strerror or error
        raise InputError(
            f"cannot listen on {host}, port {port} ({why}); give another --host or --port.",
            f"无法在 {host} 的端口 {port} 上监听({why})；请换一个 --host 或 --port。",
        ) from None
    return listening


def address_of(host: str, port: int, root_path: str) -> str:
    """What to type into a browser or a program."""
    name = f"[{host.strip('[]')}]" if ":" in host else host
    return f"http://{name}:{port}{root_path.rstrip('/')}"


def serving(engine: Engine) -> str:
    """Which release is served."""
    release = engine.release
    return pick(
        f"Serving release {release.id}: {engine.pictures:,} pictures, model {release.model[:12]}.",
        f"正在提供版本 {release.id}：{engine.pictures:,} 张图片，模型 {release.model[:12]}。",
    )
