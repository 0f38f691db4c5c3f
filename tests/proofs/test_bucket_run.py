"""The whole pipeline from a bucket into a bucket, through a network that fails now and then."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

import pytest

from tests.proofs.conftest import OPTIONS, draw_collection, must
from tests.proxy import FaultyProxy
from wentu.storage.s3 import Objects

pytestmark = pytest.mark.heavy


FAULTS = "unavailable", "cut", "corrupt", "drop", "slow"


def fault(number: int, method: str, path: str) -> str:
    """Every tenth request is refused; others are cut, changed, late, or never answered."""
    if number % 10 == 0:
        return "unavailable"
    kinds = {3: "cut", 5: "corrupt", 7: "drop", 11: "slow"} if method == "GET" else {}
    return kinds.get(number % 31, "")


def test_from_a_bucket_into_a_bucket_and_found_on_another_machine(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, place = draw_collection(tmp_path / "drawn"), f"s3://{bucket}/{uuid.uuid4().hex[:8]}"
    pictures = Objects(f"{place}/图 片")
    for path in sorted(drawn.rglob("*")):
        if path.is_file():
            pictures.put(path.relative_to(drawn).as_posix(), path)
    where = ["--pictures", f"{place}/图 片", "--captions", f"{place}/图 片"]
    words = ["run", *where, "--store", f"{place}/store", "--min-new", "50", *OPTIONS]
    proxy = FaultyProxy(os.environ["AWS_ENDPOINT_URL_S3"], fault)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        assert "is current (train: first training" in must(*words)
    proxy.close()
    assert all(proxy.done.get(kind, 0) for kind in FAULTS)

    monkeypatch.setenv("WENTU_CACHE", str(tmp_path / "another machine"))
    assert "Nothing new" in must(*words)
    search = ["search", "--json", "--all", "-k", "1", "--store", f"{place}/store"]
    for number in (3, 70, 111):
        name = f"pictures/{number:04d}.png"
        (hit,) = json.loads(must(*search, "--picture", str(drawn / name)))
        assert name in hit["paths"]
        assert hit["score"] > 0.9999
    pictures.delete(["pictures/0003.png"])
    assert "1 deleted" in must(*words)
    (hit,) = json.loads(must(*search, "--picture", str(drawn / "pictures/0003.png")))
    assert "pictures/0003.png" not in hit["paths"]
