"""Searching a release: by text, by picture, by both, over everything that counts."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wentu.clip.bundle import Bundle
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
    refresh(collection, store, pointer=1, max_deleted=1.0)
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


def test_what_the_user_wrote_is_shown_where_captions_were_converted(
    data: Path, store: str, refresh: Refresh
) -> None:
    folder = data / "emoji-named-hant"
    run = refresh(
        folder,
        store,
        pointer=1,
        captions="names",
        convert="t2s",
        max_deleted=1.0,
    )
    assert run.answer.decision == "refresh"
    hits = found(store)
    assert len(hits) == 48
    assert {path: hit.captions for path, hit in hits.items()} == {
        path.name: (path.stem[4:],) for path in folder.iterdir()
    }


def test_another_spelling_of_a_converted_caption_is_shown_after_a_refresh(
    collection: Path, store: str, refresh: Refresh
) -> None:
    """The text that is embedded stays the same; only what the user wrote is another."""
    path = collection / "cn_train.json"
    path.write_text(path.read_text("utf-8").replace("红色", "紅色"), "utf-8")
    run = refresh(collection, store, pointer=1, convert="t2s")
    assert json.loads((run.catalog / "report.json").read_text())["details"]["captions_converted"]
    captions = {text for hit in found(store).values() for text in hit.captions}
    assert any("紅色" in text for text in captions)
    rows = json.loads(path.read_text("utf-8"))
    assert {text for row in rows for text in row["caption"]} <= captions


def test_the_users_own_ids_come_with_the_hits(
    collection: Path, store: str, refresh: Refresh, tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("id,image,caption\nA-7,0001.png,狗\n007,0002.png,鸟\n", "utf-8")
    refresh(collection, store, pointer=1, captions=str(table))
    own = {path: hit.own_id for path, hit in found(store).items() if hit.own_id}
    assert own == {"pictures/0001.png": "A-7", "pictures/0002.png": "007"}


def test_odd_pictures_are_found_and_broken_ones_are_named(
    data: Path, store: str, refresh: Refresh
) -> None:
    """All 29 of Pillow's in one collection: each of the 19 finds itself, the 10 have a reason."""
    folder = data / "broken"
    run = refresh(folder, store, pointer=1, captions="none", max_rejected=0.5, max_deleted=1.0)
    good = sorted((folder / "must-load").iterdir())
    bad = {f"must-be-refused/{path.name}" for path in (folder / "must-be-refused").iterdir()}
    assert (len(good), len(bad)) == (19, 10)
    report = json.loads((run.catalog / "report.json").read_text("utf-8"))
    assert report["counts"]["rejected"] == 10
    reasons = dict(report["rejected"])
    assert reasons.keys() == bad
    assert all(len(reason) > 10 for reason in reasons.values())
    engine = Engine.open(store)
    assert engine.release.pictures == len({path.read_bytes() for path in good})
    for path in good:
        hits = engine.search(picture=path.read_bytes(), k=3)
        assert f"must-load/{path.name}" in {name for hit in hits for name in hit.paths}
    engine.close()


# --- picture -> captions ----------------------------------------------------------------------


def test_captions_of_a_picture_are_the_nearest_of_all(built: Any, engine: Engine) -> None:
    said = {
        text: row["image"]
        for split in ("train", "valid", "test")
        for row in json.loads((built.collection / f"cn_{split}.json").read_text("utf-8"))
        for text in row["caption"]
    }
    bundle = Bundle(built.bundle)
    texts = sorted(said)
    for name in ("0000.png", "0007.png", "0021.png"):
        data = (built.collection / "pictures" / name).read_bytes()
        vector = bundle.encode_image([data])[0]
        scores = {text: float(bundle.encode_text([text])[0] @ vector) for text in texts}
        best = sorted(scores.values(), reverse=True)
        hits = engine.captions(data, k=7)
        np.testing.assert_allclose([hit.score for hit in hits], best[:7], atol=1e-5)
        for hit in hits:
            assert scores[hit.text] == pytest.approx(hit.score, abs=1e-5)
            assert hit.path == said[hit.text]
        everything = engine.captions(data, k=1000)
        assert {hit.text for hit in everything} == said.keys()
        assert everything[:7] == hits


def test_a_collection_without_captions_says_so(
    collection: Path, store: str, refresh: Refresh
) -> None:
    refresh(collection, store, pointer=1, captions="none")
    engine = Engine.open(store)
    data = (collection / "pictures/0000.png").read_bytes()
    with pytest.raises(InputError, match="this collection has no captions; search --to pictures"):
        engine.captions(data)
    with pytest.raises(InputError, match="-k 0: give 1 or more"):
        engine.captions(data, k=0)
    engine.close()


# --- traditional characters -------------------------------------------------------------------


def test_a_query_in_traditional_characters_is_the_one_in_simplified(
    built: Any, built_converted: Any
) -> None:
    engine = Engine.open(built_converted.store)
    for taiwan, mainland in (("滑鼠", "鼠标"), ("紅色的圓形", "红色的圆形"), ("一隻貓", "一只猫")):
        one, two = (engine.query_vector(text, None) for text in (taiwan, mainland))
        assert np.array_equal(one, two)
        assert engine.search(taiwan, k=5) == engine.search(mainland, k=5)
    captions = {text for hit in engine.search("猫", k=50) for text in hit.captions}
    assert {"一隻貓", "檔案"} <= captions  # shown as they were written
    engine.close()
    other = Engine.open(built.store)
    one, two = (other.query_vector(text, None) for text in ("一隻貓", "一只猫"))
    assert not np.array_equal(one, two)
    other.close()


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
