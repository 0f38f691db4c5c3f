"""Notices reach a webhook, and nothing that a webhook does reaches the run."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from wentu import notices
from wentu.errors import InputError, StoppedError
from wentu.settings import StageConfig
from wentu.stage import Stage
from wentu.stages.promote import Config, promote
from wentu.store import Store


@dataclass
class Hook:
    """A web server that keeps what it is sent."""

    status: int = 200
    wait: float = 0.0
    got: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    port: int = 0


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    found = Hook()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.got.append(json.loads(body))
            found.headers.append(dict(self.headers))
            time.sleep(found.wait)
            self.send_response(found.status)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WENTU_WEBHOOK", f"http://127.0.0.1:{found.port}/hook?key=secret-key")
    yield found
    server.shutdown()
    server.server_close()


def fail(out: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), Stage("pairs", out, StageConfig(), {}):
        raise error


def test_a_stage_that_fails_is_told(
    hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WENTU_RUN_ID", "run-7")
    fail(tmp_path / "out", InputError("the captions 文 are missing."))
    assert hook.got == [
        {
            "event": "failure",
            "sentence": "the captions 文 are missing.",
            "run": "run-7",
            "stage": "pairs",
            "release": "",
            "metrics": {},
            "link": "",
        }
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StoppedError("stopped")])
def test_what_a_person_stopped_is_not_told(
    hook: Hook, tmp_path: Path, error: BaseException
) -> None:
    fail(tmp_path / "out", error)
    assert hook.got == []


def test_without_a_webhook_nothing_happens(
    hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WENTU_WEBHOOK")
    fail(tmp_path / "out", InputError("wrong"))
    assert hook.got == []


def test_the_password_of_an_address_is_sent_as_such_and_never_shown(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WENTU_WEBHOOK", f"http://me:p%40ss@127.0.0.1:{hook.port}/hidden-path")
    notices.send("failure", "MLflow at http://u:pw@host:5000 is gone", link="http://u:pw@h/x")
    assert base64.b64decode(hook.headers[0]["Authorization"].split()[1]) == b"me:p@ss"
    assert hook.got[0]["sentence"] == "MLflow at http://host:5000 is gone"
    assert hook.got[0]["link"] == "http://h/x"
    hook.status = 500
    notices.send("failure", "again")
    said = capsys.readouterr().err
    assert said == "the notice of a failure did not get through: status 500\n"


@pytest.mark.parametrize(
    ("status", "said"), [(302, "status 302"), (404, "status 404"), (503, "status 503")]
)
def test_what_the_webhook_answers_is_a_line_in_the_log(
    hook: Hook, capsys: pytest.CaptureFixture[str], status: int, said: str
) -> None:
    hook.status = status
    notices.send("promotion", "done")
    assert said in capsys.readouterr().err
    assert len(hook.got) == 1


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/x?key=abc", "ftp://abc/x", "http://[abc", "abc", "http://"]
)
def test_an_address_that_cannot_be_is_a_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    monkeypatch.setenv("WENTU_WEBHOOK", address)
    notices.send("failure", "wrong")
    said = capsys.readouterr().err
    assert said.startswith("the notice of a failure did not get through: ")
    assert "abc" not in said


def test_a_webhook_that_does_not_answer_is_not_waited_for(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notices, "PATIENCE", 0.3)
    hook.wait = 3.0
    began = time.monotonic()
    notices.send("failure", "wrong")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection, says nothing
        monkeypatch.setenv("WENTU_WEBHOOK", f"http://127.0.0.1:{silent.getsockname()[1]}")
        notices.send("failure", "wrong")
    assert time.monotonic() - began < 2.0
    assert capsys.readouterr().err.count("did not get through") == 2


# --- what promote tells -----------------------------------------------------------------------


def again(built: Any, store: str, out: Path, **changed: Any) -> None:
    given = {"evaluation": built.evaluation, "attempt": built.answer.attempt} | changed
    promote(
        catalog=built.catalog,
        bundle=built.winner,
        index=built.index,
        store=store,
        inventory=built.answer.inventory,
        out=out,
        config=Config(),
        **given,
    )


def test_a_promotion_is_told_with_its_figures(built: Any, hook: Hook, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    Store(store).claim()
    again(built, store, tmp_path / "out")
    (notice,) = hook.got
    current = Store(store).current()
    assert current is not None
    assert (notice["event"], notice["stage"]) == ("promotion", "promote")
    assert notice["release"] == current[1].id
    assert notice["sentence"].startswith(f"release {current[1].id} is current, with another model")
    assert notice["metrics"] == dict(current[1].metrics)


def test_a_rejection_is_told_with_its_reason(
    built: Any, hook: Hook, tmp_path: Path, store: str
) -> None:
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    result = json.loads((built.evaluation / "evaluation.json").read_text("utf-8"))
    result["candidate"], result["verdict"] = "other", {"promote": False, "reason": "not better"}
    result["metrics"]["champion"] = result["metrics"]["candidate"]
    (evaluation / "evaluation.json").write_text(json.dumps(result))
    again(built, store, tmp_path / "out", evaluation=evaluation, pointer=1)
    (notice,) = hook.got
    assert notice["event"] == "rejection"
    assert notice["sentence"] == "the trained model was not promoted: not better"
    assert notice["metrics"]


def test_a_refresh_with_the_same_model_is_no_news(
    hook: Hook, collection: Path, store: str, refresh: Callable[..., Any], draw: Any
) -> None:
    draw(collection, [200])
    refresh(collection, store, pointer=1)
    assert hook.got == []
