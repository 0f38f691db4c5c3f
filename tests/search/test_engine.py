"""Searching a release: by text, by picture, by both, over everything that counts."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wentu.errors import InputError
from wentu.pictures import PictureError
from wentu.search.engine import Engine, read_query_picture

Refresh = Callable[..., Any]


@pytest.fixture
def engine(built: Any) -> Iterator[Engine]:
    opened = Engine.open(built.store)
    yield opened
    opened.close()


def found(store: str, **query: Any) -> dict[str, Any]:
    """Every hit by its first path."""
    engine = Engine.open(store)
    hits = engine.search(**{"text": "红色圆形", "k": 100, **query})
    engine.close()
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    return {hit.paths[0]: hit for hit in hits}


def test_mistake_11_fewer_pictures_than_asked_for_are_all_found(
    built: Any, collection: Path, store: str, refresh: Refresh
) -> None:
    for path in sorted((collection / "pictures").iterdir())[6:]:
        path.unlink()
    refresh(collection, store, pointer=1)
    hits = found(store, k=10)
    assert sorted(hits) == [f"pictures/{number:04d}.png" for number in range(6)]


def test_hits_are_the_nearest_with_their_files_and_captions(built: Any, engine: Engine) -> None:
    (text,) = ["左上角的红色圆形,大号,白色底"]
    hits = engine.search(text, k=5)
    query = engine.bundle.encode_text([text])[0]
    scores = np.sort(np.load(built.features / "vectors.npy") @ query)[::-1]
    np.testing.assert_allclose([hit.score for hit in hits], scores[:5], atol=1e-5)
    assert len({hit.id for hit in hits}) == 5
    for hit in hits:
        assert (built.collection / hit.paths[0]).is_file()
        assert len(hit.captions) == 2


def test_a_picture_finds_itself_first(built: Any, engine: Engine) -> None:
    for path in sorted((built.collection / "pictures").iterdir())[:4]:
        hit = engine.search(picture=path.read_bytes(), k=1)[0]
        assert hit.paths == (f"pictures/{path.name}",)
        assert hit.score == pytest.approx(1, abs=1e-5)


def test_text_and_picture_are_weighed(built: Any, engine: Engine) -> None:
    picture = (built.collection / "pictures/0000.png").read_bytes()
    text = "蓝色月牙"
    alone = engine.query_vector(text, None), engine.query_vector(None, picture)
    for weight in (0.0, 0.3, 1.0):
        vector = engine.query_vector(text, picture, weight)
        expected = alone[0] * (1 - weight) + alone[1] * weight
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-6)


def test_k_bounds_the_hits_and_more_hits_begin_with_the_same(engine: Engine) -> None:
    few, many = engine.search("红色", k=3), engine.search("红色", k=50)
    assert (len(few), len(many)) == (3, 24)
    assert many[:3] == few


def test_new_pictures_are_found_and_deleted_ones_are_not(
    built: Any, collection: Path, store: str, refresh: Refresh, draw: Any
) -> None:
    draw(collection, [200])
    (collection / "pictures/0003.png").unlink()
    refresh(collection, store, pointer=1)
    hits = found(store)
    assert len(hits) == 24
    assert "pictures/0200.png" in hits
    assert "pictures/0003.png" not in hits


def test_changed_captions_and_names_are_shown(
    built: Any, collection: Path, store: str, refresh: Refresh
) -> None:
    (collection / "pictures/0003.png").rename(collection / "pictures/新.png")
    path = collection / "cn_train.json"
    path.write_text(path.read_text("utf-8").replace("0003.png", "新.png"), "utf-8")
    path.write_text(path.read_text("utf-8").replace("红色", "鲜红色"), "utf-8")
    refresh(collection, store, pointer=1)
    hits = found(store)
    assert len(hits) == 24
    assert "pictures/新.png" in hits
    captions = [text for hit in hits.values() for text in hit.captions]
    assert any("鲜红色" in text for text in captions)


def test_a_picture_that_was_deleted_and_came_back_is_found_once(
    built: Any, collection: Path, store: str, refresh: Refresh
) -> None:
    path = collection / "pictures/0003.png"
    data = path.read_bytes()
    path.unlink()
    refresh(collection, store, pointer=1)
    path.write_bytes(data)
    refresh(collection, store, pointer=2)
    engine = Engine.open(store)
    hits = engine.search(picture=data, k=100)
    engine.close()
    assert [hit.paths[0] for hit in hits].count("pictures/0003.png") == 1
    assert len(hits) == 24


def test_equal_files_in_several_places_are_one_hit(
    built: Any, collection: Path, store: str, refresh: Refresh
) -> None:
    shutil.copy(collection / "pictures/0003.png", collection / "副本.png")
    refresh(collection, store, pointer=1)
    hits = found(store)
    assert len(hits) == 24
    assert hits["pictures/0003.png"].paths == ("pictures/0003.png", "副本.png")


def test_every_hit_has_its_thumbnail(engine: Engine) -> None:
    for hit in engine.search("红色", k=3):
        with Image.open(io.BytesIO(engine.thumbnail(hit.id))) as image:
            assert image.size == (128, 128)


def test_example_captions_are_of_the_split(built: Any, engine: Engine) -> None:
    captions = set(engine.example_captions("test", 300))
    assert len(captions) == 6
    text = (built.collection / "cn_test.json").read_text("utf-8")
    assert all(caption in text for caption in captions)


# --- mistakes ---------------------------------------------------------------------------------


def test_a_query_of_nothing_is_a_sentence(engine: Engine) -> None:
    for text in (None, "", "  \u3000 "):
        with pytest.raises(InputError, match="give a text, a picture, or both"):
            engine.search(text)
    with pytest.raises(InputError, match="-k 0: give 1 or more"):
        engine.search("红色", k=0)


def test_a_query_picture_that_is_none_is_a_sentence(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(PictureError):
        engine.search(picture=b"no picture")
    with pytest.raises(InputError, match=r"--picture .*nothing\.png: no such file"):
        read_query_picture(str(tmp_path / "nothing.png"))
    assert read_query_picture(None) is None


def test_a_store_without_a_release_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no release yet: run `wentu run` first"):
        Engine.open(str(tmp_path))


def test_searching_a_release_loads_no_torch_and_no_kfp(built: Any) -> None:
    code = (
        "import sys; from wentu.search.engine import Engine\n"
        "print(len(Engine.open(sys.argv[1]).search('红色', k=3)))\n"
        "print([m for m in ('torch', 'torchvision', 'cn_clip', 'kfp') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, built.store], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["3", "[]"]
