"""index: vectors become a segment that is complete, searchable, and the same for the same input."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wentu import ann, formats
from wentu.errors import FormatError, InputError, QualityError
from wentu.formats import read_manifest
from wentu.stages.features import Config as Embedding
from wentu.stages.features import features
from wentu.stages.index import Config, index


def table(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(formats.open_catalog(folder / "catalog.sqlite")) as db:
        return db.execute(query).fetchall()


def test_a_segment_is_complete(built: Any) -> None:
    segment = built.index / "segment"
    names = {"vectors.npy", "ids.npy", "catalog.sqlite", "index.faiss"}
    assert {path.name for path in segment.iterdir()} == names
    for name in ("vectors.npy", "ids.npy"):
        assert (segment / name).read_bytes() == (built.features / name).read_bytes()
    manifest = read_manifest(built.index, "index")
    assert manifest.counts == {"vectors": 24, "recall_at_10": 1.0}
    assert (built.index / "reuse.json").read_bytes() == (built.features / "reuse.json").read_bytes()


def test_the_index_finds_each_vector_first(built: Any) -> None:
    vectors = np.load(built.features / "vectors.npy")
    found = ann.read_index(built.index / "segment" / "index.faiss")
    scores, rows = found.search(vectors, 1)
    assert found.ntotal == 24
    np.testing.assert_allclose(scores[:, 0], 1, atol=1e-5)
    assert np.allclose(vectors[rows[:, 0]], vectors, atol=1e-5)


def test_the_catalog_of_a_whole_segment_is_the_whole_catalog(built: Any) -> None:
    for name in ("pictures", "paths", "captions", "texts"):
        query = f"SELECT * FROM {name} ORDER BY 1, 2"
        assert table(built.index / "segment", query) == table(built.catalog, query)


def test_the_catalog_of_a_delta_speaks_of_its_pictures_alone(
    collection: Path, store: str, refresh: Callable[..., Any], draw: Any
) -> None:
    draw(collection, [200])
    run = refresh(collection, store, pointer=1)
    segment = run.index / "segment"
    assert table(segment, "SELECT path FROM paths") == [("pictures/0200.png",)]
    assert len(table(segment, "SELECT id FROM pictures")) == 1
    assert table(segment, "SELECT * FROM texts") == []


def test_paths_are_relative_to_the_collection(built: Any) -> None:
    paths = [path for (path,) in table(built.index / "segment", "SELECT path FROM paths")]
    assert all(not Path(path).is_absolute() and "\\" not in path for path in paths)
    assert all((built.collection / path).is_file() for path in paths)


def test_where_nothing_is_new_there_is_no_segment(
    collection: Path, store: str, refresh: Callable[..., Any]
) -> None:
    run = refresh(collection, store, pointer=1)
    assert not (run.index / "segment").exists()
    assert read_manifest(run.index).counts == {"vectors": 0}


def test_the_same_input_gives_the_same_bytes(built: Any, tmp_path: Path) -> None:
    index(catalog=built.catalog, features=[built.features], out=tmp_path / "again", config=Config())
    ours, theirs = (
        formats.folder_sha256(folder / "segment") for folder in (tmp_path / "again", built.index)
    )
    assert ours == theirs


# --- shards -----------------------------------------------------------------------------------


def embed(
    built: Any, out: Path, shard: int, shards: int = 3, size: int = 3, pointer: int = 0
) -> Path:
    features(
        catalog=built.catalog,
        bundle=built.winner,
        pictures=str(built.collection),
        store=built.store,
        out=out,
        config=Embedding(embed_batch_size=size, shards=shards),
        shard=shard,
        pointer=pointer,
    )
    return out


@pytest.fixture(scope="module")
def shards(built: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The first, second and third part of what ``built`` embeds."""
    root = tmp_path_factory.mktemp("shards")
    return [embed(built, root / str(number), number) for number in (1, 2, 3)]


def test_shards_give_the_segment_of_the_whole_to_the_byte(
    built: Any, shards: list[Path], tmp_path: Path
) -> None:
    whole = embed(built, tmp_path / "whole", 0, shards=1)
    index(catalog=built.catalog, features=[whole], out=tmp_path / "a", config=Config())
    mixed = [shards[2], shards[0], shards[1]]
    index(catalog=built.catalog, features=mixed, out=tmp_path / "b", config=Config())
    ours, theirs = (formats.folder_sha256(tmp_path / name) for name in "ba")
    assert ours == theirs
    assert ours.keys() > {"reuse.json", "segment/vectors.npy", "segment/index.faiss"}
    counts = read_manifest(tmp_path / "b", "index").counts
    assert counts == {"vectors": 24, "recall_at_10": 1.0}
    again = tmp_path / "again"
    index(catalog=built.catalog, features=shards, out=again, config=Config())
    assert read_manifest(again).digest == read_manifest(tmp_path / "b").digest


def test_shards_that_are_not_one_embedding_are_refused(
    built: Any, shards: list[Path], tmp_path: Path
) -> None:
    def refused(*parts: Path, error: type[Exception] = InputError, says: str) -> None:
        with pytest.raises(error, match=says):
            index(catalog=built.catalog, features=parts, out=tmp_path / "out", config=Config())
        assert not (tmp_path / "out" / "manifest.json").exists()

    one, two, three = shards
    refused(one, three, says=r"given are the shards 1/3, 3/3; give all")
    refused(one, two, two, says=r"shard 2/3 is in .*2 already; name each once")
    refused(built.features, one, two, says=r"given are the shards 1/1, 1/3, 2/3; give all")
    later = embed(built, tmp_path / "later", 3, pointer=1)
    refused(one, two, later, says="not of one embedding of --catalog")
    other = embed(built, tmp_path / "other", 2, size=10)
    refused(one, other, three, error=FormatError, says="each once: they were cut with different")


def test_vectors_of_another_catalog_are_refused(
    built: Any, built_closed: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="not of one embedding of --catalog"):
        index(
            catalog=built_closed.catalog,
            features=[built.features],
            out=tmp_path / "out",
            config=Config(),
        )


def test_an_index_that_misses_its_vectors_is_refused(built: Any, tmp_path: Path) -> None:
    features = Path(shutil.copytree(built.features, tmp_path / "features"))
    vectors = np.load(features / "vectors.npy")
    np.save(features / "vectors.npy", np.full_like(vectors, np.nan))
    with pytest.raises(
        QualityError, match=r"finds 0\.000 of the true nearest, --min-recall is 0\.9"
    ):
        index(catalog=built.catalog, features=[features], out=tmp_path / "out", config=Config())
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_unfinished_input_is_refused(built: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="is not finished"):
        index(catalog=built.catalog, features=[tmp_path], out=tmp_path / "o", config=Config())
    with pytest.raises(InputError, match="written by the stage pairs; here one of features"):
        index(catalog=built.catalog, features=[built.catalog], out=tmp_path / "o", config=Config())


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(InputError, match=r"--min-recall 1\.5: give a share from 0 to 1"):
        Config(min_recall=1.5)
