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
