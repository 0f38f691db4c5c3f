"""features: every picture has its vector, and only those are embedded that had none."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from wentu import formats
from wentu.clip.bundle import Bundle, bundle_digest
from wentu.errors import FormatError, InputError
from wentu.formats import read_manifest
from wentu.stages.features import Config, features, rows_of
from wentu.store import COMPACT_ABOVE, SegmentRef, Store, read_reuse

Refresh = Callable[..., Any]


def vectors_of(folder: Path) -> dict[int, npt.NDArray[np.float32]]:
    ids = np.load(folder / "ids.npy")
    return dict(zip(ids.tolist(), np.load(folder / "vectors.npy"), strict=True))


def ids_of(catalog: Path) -> dict[str, int]:
    """The picture of each path."""
    with closing(formats.open_catalog(catalog / "catalog.sqlite")) as db:
        return dict(db.execute("SELECT path, picture FROM paths").fetchall())


def counts(run: Any) -> dict[str, int]:
    found = read_manifest(run.features, "features").counts
    return {name: found[name] for name in ("pictures", "embedded", "reused")}


def change_caption(collection: Path, old: str = "红色", new: str = "鲜红色") -> int:
    """Change captions of cn_train.json; returns how many pictures that concerns."""
    path = collection / "cn_train.json"
    rows = json.loads(path.read_text("utf-8"))
    concerned = sum(any(old in text for text in row["caption"]) for row in rows)
    path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")
    return concerned


# --- the first time ---------------------------------------------------------------------------


def test_every_picture_has_the_vector_of_its_own_file(built: Any) -> None:
    found, ids = vectors_of(built.features), ids_of(built.catalog)
    assert found.keys() == set(ids.values())
    paths = sorted(ids)
    files = [(built.collection / path).read_bytes() for path in paths]
    expected = Bundle(built.winner).encode_image(files, batch_size=5)
    ours = np.stack([found[ids[path]] for path in paths])
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
    assert ours.dtype == np.float32


def test_the_output_says_which_model_and_what_stays(built: Any) -> None:
    assert read_reuse(built.features) == (bundle_digest(built.winner), 128, ())
    assert counts(built) == {"pictures": 24, "embedded": 24, "reused": 0}
    ids = np.load(built.features / "ids.npy")
    assert ids.dtype == np.int64
    assert ids.tolist() == sorted(ids.tolist())


def test_every_picture_has_a_thumbnail(built: Any) -> None:
    store = Store(built.store)
    for picture in ids_of(built.catalog).values():
        data = store.storage.read(store.thumbnail_key(picture))
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "JPEG"
            assert max(image.size) <= 256


@pytest.mark.parametrize("size", [1, 7, 100])
def test_the_size_of_a_batch_changes_nothing(built: Any, tmp_path: Path, size: int) -> None:
    features(
        catalog=built.catalog,
        bundle=built.winner,
        pictures=str(built.collection),
        store=str(tmp_path / "store"),
        out=tmp_path / "out",
        config=Config(embed_batch_size=size),
    )
    ours, theirs = vectors_of(tmp_path / "out"), vectors_of(built.features)
    assert ours.keys() == theirs.keys()
    for picture, vector in ours.items():
        np.testing.assert_allclose(vector, theirs[picture], atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_shards_are_the_whole_to_the_bit(built: Any, tmp_path: Path, size: int) -> None:
    """Also where there are fewer batches than shards."""
    common: dict[str, Any] = {
        "catalog": built.catalog,
        "bundle": built.winner,
        "pictures": str(built.collection),
        "store": str(tmp_path / "store"),
    }
    whole = tmp_path / "whole"
    features(**common, out=whole, config=Config(embed_batch_size=size))
    parts = [tmp_path / f"part-{number}" for number in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        config = Config(embed_batch_size=size, shards=3)
        features(**common, out=part, config=config, shard=number)
    for name in ("ids.npy", "vectors.npy"):
        together = np.concatenate([np.load(part / name) for part in parts])
        assert together.tobytes() == np.load(whole / name).tobytes()
    assert len({(part / "reuse.json").read_bytes() for part in [whole, *parts]}) == 1
    found = [read_manifest(part, "features") for part in parts]
    assert [each.inputs["shard"] for each in found] == ["1/3", "2/3", "3/3"]
    embedded = [each.counts["embedded"] for each in found]
    assert max(embedded) - min(embedded) <= size
    for name in ("pictures", "embedded", "reused"):
        assert sum(each.counts[name] for each in found) == read_manifest(whole).counts[name]


@pytest.mark.parametrize(("shard", "shards"), [(3, 2), (-1, 2), (2, 1)])
def test_a_shard_that_is_not_there_is_refused(
    built: Any, tmp_path: Path, shard: int, shards: int
) -> None:
    with pytest.raises(InputError, match=rf"--shard {shard}: with --shards {shards} there are 1"):
        features(
            catalog=built.catalog,
            bundle=built.winner,
            pictures=str(built.collection),
            store=str(tmp_path / "store"),
            out=tmp_path / "out",
            config=Config(shards=shards),
            shard=shard,
        )


@pytest.mark.parametrize("shards", [1, 2, 5, 30])
@pytest.mark.parametrize("fresh", [[], [3], [*range(20)], [0, 4, 5, 6, 11, 12, 19]])
def test_shards_are_even_runs_that_leave_no_row_out(shards: int, fresh: list[int]) -> None:
    config, rows = Config(shards=shards, embed_batch_size=2), np.array(fresh, np.intp)
    runs = [rows_of(number, config, rows, 20) for number in range(1, shards + 1)]
    assert [row for run in runs for row in range(20)[run]] == [*range(20)]
    batches = [-(-len([row for row in range(20)[run] if row in fresh]) // 2) for run in runs]
    assert max(batches) - min(batches) <= 1
    assert sum(batches) == -(-len(fresh) // 2)
    assert rows_of(0, config, rows, 20) == slice(0, 20)


def test_mistake_01_copies_of_pictures_cost_no_vector(
    built: Any, collection: Path, pair: Any, tmp_path: Path
) -> None:
    """20 pictures and 3 of them again, in batches of 8: the reference ends after 16."""
    for number in range(20, 24):
        (collection / f"pictures/{number:04d}.png").unlink()
    for number in range(3):
        copy = collection / f"pictures/copy of {number}.png"
        shutil.copy(collection / f"pictures/{number:04d}.png", copy)
    pair(collection, str(collection), str(tmp_path / "store"))
    features(
        catalog=tmp_path / "catalog",
        bundle=built.winner,
        pictures=str(collection),
        store=str(tmp_path / "store"),
        out=tmp_path / "out",
        config=Config(embed_batch_size=8),
    )
    found, ids = vectors_of(tmp_path / "out"), ids_of(tmp_path / "catalog")
    assert (len(ids), len(found)) == (23, 20)
    assert found.keys() == set(ids.values())
    assert ids["pictures/copy of 2.png"] == ids["pictures/0002.png"]
    before = vectors_of(built.features)
    for picture, vector in found.items():
        np.testing.assert_allclose(vector, before[picture], atol=1e-6)


# --- what is new ------------------------------------------------------------------------------


def test_nothing_new_writes_nothing(
    built: Any, collection: Path, store: str, refresh: Refresh
) -> None:
    run = refresh(collection, store, pointer=1)
    assert counts(run) == {"pictures": 24, "embedded": 0, "reused": 24}
    assert vectors_of(run.features) == {}
    assert np.load(run.features / "vectors.npy").shape == (0, 128)
    before = Store(store).current()
    assert before is not None
    assert read_reuse(run.features)[2] == before[1].segments


def test_only_new_pictures_are_embedded(
    built: Any, collection: Path, store: str, refresh: Refresh, draw: Any
) -> None:
    draw(collection, [200, 201])
    run = refresh(collection, store, pointer=1)
    assert counts(run) == {"pictures": 26, "embedded": 2, "reused": 24}
    ids = ids_of(run.catalog)
    new = {ids["pictures/0200.png"], ids["pictures/0201.png"]}
    assert vectors_of(run.features).keys() == new
    ((kept,)) = read_reuse(run.features)[2]
    assert kept.tombstones == ()


def test_a_deleted_picture_is_a_tombstone(
    built: Any, collection: Path, store: str, refresh: Refresh
) -> None:
    gone = ids_of(built.catalog)["pictures/0003.png"]
    (collection / "pictures/0003.png").unlink()
    run = refresh(collection, store, pointer=1)
    assert counts(run) == {"pictures": 23, "embedded": 0, "reused": 23}
    ((kept,)) = read_reuse(run.features)[2]
    assert kept.tombstones == (gone,)


def test_an_edited_picture_is_a_tombstone_and_a_new_one(
    built: Any, collection: Path, store: str, refresh: Refresh
) -> None:
    gone = ids_of(built.catalog)["pictures/0003.png"]
    path = collection / "pictures/0003.png"
    path.write_bytes(path.read_bytes() + b"\0")
    run = refresh(collection, store, pointer=1)
    assert counts(run) == {"pictures": 24, "embedded": 1, "reused": 23}
    ((kept,)) = read_reuse(run.features)[2]
    assert kept.tombstones == (gone,)
    assert vectors_of(run.features).keys() == {ids_of(run.catalog)["pictures/0003.png"]}


def test_changed_captions_are_written_again_without_embedding(
    built: Any, collection: Path, store: str, refresh: Refresh
) -> None:
    concerned = change_caption(collection)
    assert 1 <= concerned <= 7
    run = refresh(collection, store, pointer=1)
    assert counts(run) == {"pictures": 24, "embedded": 0, "reused": 24}
    again, before = vectors_of(run.features), vectors_of(built.features)
    assert len(again) == concerned
    for picture, vector in again.items():
        assert np.array_equal(vector, before[picture])
    ((kept,)) = read_reuse(run.features)[2]
    assert set(kept.tombstones) == again.keys()


def test_a_renamed_file_is_written_again_without_embedding(
    built: Any, collection: Path, store: str, refresh: Refresh
) -> None:
    (collection / "pictures/0003.png").rename(collection / "pictures/新名字.png")
    run = refresh(collection, store, pointer=1)
    assert counts(run) == {"pictures": 24, "embedded": 0, "reused": 24}
    assert vectors_of(run.features).keys() == {ids_of(run.catalog)["pictures/新名字.png"]}


def test_a_picture_that_comes_back_is_not_embedded_again(
    built: Any, collection: Path, store: str, refresh: Refresh
) -> None:
    path = collection / "pictures/0003.png"
    data = path.read_bytes()
    path.unlink()
    refresh(collection, store, pointer=1)
    path.write_bytes(data)
    run = refresh(collection, store, pointer=2)
    assert counts(run) == {"pictures": 24, "embedded": 0, "reused": 24}
    assert len(vectors_of(run.features)) == 1


def test_another_model_embeds_everything(built: Any, store: str, tmp_path: Path) -> None:
    other = Path(shutil.copytree(built.winner, tmp_path / "other"))
    info = json.loads((other / "bundle.json").read_text("utf-8"))
    (other / "bundle.json").unlink()
    (other / "bundle.json").write_text(json.dumps(info | {"epoch": 99}), "utf-8")
    features(
        catalog=built.catalog,
        bundle=other,
        pictures=str(built.collection),
        store=store,
        out=tmp_path / "out",
        config=Config(),
        pointer=1,
    )
    assert read_manifest(tmp_path / "out").counts["embedded"] == 24
    assert read_reuse(tmp_path / "out")[2] == ()


# --- compaction -------------------------------------------------------------------------------


def test_many_segments_become_one_without_embedding(
    built: Any, collection: Path, store: str, refresh: Refresh
) -> None:
    vault = Store(store)
    current = vault.current()
    assert current is not None
    (whole,) = current[1].segments
    dead = tuple(ids_of(built.catalog).values())
    many = (whole, *(replace(whole, tombstones=dead) for _ in range(COMPACT_ABOVE - 1)))
    name = vault.write_release(replace(current[1], segments=many))
    vault.publish(name, after=1, reason="refresh")
    run = refresh(collection, store, pointer=2)
    assert counts(run) == {"pictures": 24, "embedded": 0, "reused": 24}
    assert read_reuse(run.features)[2] == ()
    before = vectors_of(built.features)
    for picture, vector in vectors_of(run.features).items():
        assert np.array_equal(vector, before[picture])
    after = vault.current()
    assert after is not None
    assert len(after[1].segments) == 1


def test_where_a_third_is_dead_everything_is_written_as_one_segment(
    built: Any, collection: Path, store: str, refresh: Refresh
) -> None:
    for number in range(9):
        (collection / f"pictures/{number:04d}.png").unlink()
    run = refresh(collection, store, pointer=1)
    assert counts(run) == {"pictures": 15, "embedded": 0, "reused": 15}
    assert read_reuse(run.features)[2] == ()
    assert len(vectors_of(run.features)) == 15


# --- mistakes ---------------------------------------------------------------------------------


def test_a_picture_that_vanishes_during_the_run_is_named(
    built: Any, collection: Path, pair: Any, tmp_path: Path
) -> None:
    store = str(tmp_path / "store")
    pair(collection, str(collection), store)
    (collection / "pictures/0003.png").unlink()
    with pytest.raises(InputError, match=r"0003\.png could be read when the run began"):
        features(
            catalog=tmp_path / "catalog",
            bundle=built.winner,
            pictures=str(collection),
            store=store,
            out=tmp_path / "out",
            config=Config(),
        )
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_unfinished_catalog_is_refused(built: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is not finished"):
        features(
            catalog=tmp_path,
            bundle=built.winner,
            pictures=str(built.collection),
            store=built.store,
            out=tmp_path / "out",
            config=Config(),
        )


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(InputError, match="--embed-batch-size 0: give 1 or more"):
        Config(embed_batch_size=0)


def test_a_segment_is_remembered_with_its_tombstones(tmp_path: Path) -> None:
    value = {"model": "m", "dimension": 3, "segments": [{"digest": "d", "tombstones": [1, 2]}]}
    (tmp_path / "reuse.json").write_text(json.dumps(value))
    assert read_reuse(tmp_path) == ("m", 3, (SegmentRef(digest="d", tombstones=(1, 2)),))
