"""pack_lmdb writes what Chinese-CLIP's own code reads, whole, and never into what is there."""

from __future__ import annotations

import base64
import io
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from PIL import Image

from wentu import formats, pictures
from wentu.errors import FormatError, InputError
from wentu.formats import PairsLmdb, Text, read_manifest, read_texts, read_tsv
from wentu.stage import Stage
from wentu.stages.pack_lmdb import Config, pack_lmdb, pack_split


@pytest.fixture
def pack(built: Any, tmp_path: Path) -> Callable[..., Path]:
    """Pack a training split of given pictures and texts; returns its folder."""

    def run(lines: list[tuple[int, bytes]], texts: list[Text], name: str = "lmdb") -> Path:
        tsv = tmp_path / "tsv"
        tsv.mkdir(exist_ok=True)
        rows = b"".join(formats.tsv_line(image, data) for image, data in lines)
        (tsv / "train_imgs.tsv").write_bytes(rows)
        (tsv / "train_texts.jsonl").write_bytes("".join(t.line() for t in texts).encode())
        pack_lmdb(catalog=built.catalog, tsv=tsv, out=tmp_path / name, config=Config())
        return tmp_path / name / "train"

    return run


def png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(buffer, "PNG")
    return buffer.getvalue()


def keys_of(folder: Path) -> dict[bytes, bytes]:
    env = lmdb.open(str(folder), readonly=True, lock=False)
    with env.begin() as transaction:
        found = dict(transaction.cursor())
    env.close()
    return found


@pytest.fixture(scope="module")
def reference() -> Any:
    """cn_clip's two modules that read an LMDB."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the import only: not our code
        training = pytest.importorskip("cn_clip.training.data")
        evaluation = pytest.importorskip("cn_clip.eval.data")
    return training.LMDBDataset, evaluation.EvalImgDataset


# --- what it writes ---------------------------------------------------------------------------


def test_every_split_is_packed_and_counted(built: Any) -> None:
    assert read_manifest(built.lmdb, "pack_lmdb").counts == {
        "train_pairs": 28,
        "train_pictures": 14,
        "valid_pairs": 8,
        "valid_pictures": 4,
        "test_pairs": 12,
        "test_pictures": 6,
    }
    inputs = read_manifest(built.lmdb).inputs
    assert inputs == {"pairs": read_manifest(built.catalog).digest}
    assert formats.count_rows(built.lmdb / "catalog.sqlite", "pictures") == 24


@pytest.mark.parametrize("split", formats.SPLITS)
def test_an_lmdb_holds_what_the_tsv_and_the_texts_hold(built: Any, split: str) -> None:
    expected = {
        (image, text.text_id, text.text)
        for text in read_texts(built.tsv / f"{split}_texts.jsonl")
        for image in text.image_ids
    }
    with PairsLmdb(built.lmdb / split) as packed:
        assert len(packed) == len(expected)
        assert set(packed.pairs()) == expected
        for image, data in read_tsv(built.tsv / f"{split}_imgs.tsv"):
            assert packed.picture(image) == base64.urlsafe_b64decode(data)


def test_keys_and_values_are_exactly_the_references(pack: Callable[..., Path]) -> None:
    texts = [
        Text(text_id=7, text="一只狗", image_ids=(12, 3)),
        Text(text_id=8, text="“猫”", image_ids=(3,)),
    ]
    folder = pack([(3, b"\xff\xfb\xfe"), (12, b"b")], texts)
    assert keys_of(folder / "imgs") == {
        b"3": base64.urlsafe_b64encode(b"\xff\xfb\xfe"),
        b"12": base64.urlsafe_b64encode(b"b"),
        b"num_images": b"2",
    }
    pairs = keys_of(folder / "pairs")
    assert pairs.pop(b"num_samples") == b"3"
    assert pairs.keys() == {b"0", b"1", b"2"}
    values = sorted(pickle.loads(value) for value in pairs.values())
    assert values == [(3, 7, "一只狗"), (3, 8, "“猫”"), (12, 7, "一只狗")]


@pytest.mark.parametrize("count", [1, 9, 11, 101, 1234])
def test_any_number_of_pairs_is_numbered_from_0(pack: Callable[..., Path], count: int) -> None:
    texts = [Text(text_id=n, text=f"狗 {n}", image_ids=(1,)) for n in range(count)]
    with PairsLmdb(pack([(1, b"a")], texts)) as packed:
        assert len(packed) == count
        assert {text_id for _, text_id, _ in packed.pairs()} == set(range(count))


def test_pictures_in_any_order_and_large_ids_are_packed(pack: Callable[..., Path]) -> None:
    ids = [9, 10, 2**63 - 1, 1, -5, 100, 99]
    texts = [Text(text_id=1, text="狗", image_ids=tuple(ids))]
    with PairsLmdb(pack([(n, str(n).encode()) for n in ids], texts)) as packed:
        assert packed.num_images == len(ids)
        assert [packed.picture(n) for n in ids] == [str(n).encode() for n in ids]


def test_large_pictures_fit(pack: Callable[..., Path]) -> None:
    large = np.random.default_rng(0).bytes(6_000_000)
    texts = [Text(text_id=1, text="狗", image_ids=(1, 2, 3))]
    with PairsLmdb(pack([(n, large) for n in (1, 2, 3)], texts)) as packed:
        assert packed.picture(3) == large


def test_a_long_caption_on_many_pictures_fits(pack: Callable[..., Path]) -> None:
    ids = tuple(range(600))
    texts = [Text(text_id=1, text="长" * 6000, image_ids=ids)]
    with PairsLmdb(pack([(n, b"x") for n in ids], texts)) as packed:
        assert len(packed) == 600
        assert packed.pair(599)[2] == "长" * 6000


# --- read by Chinese-CLIP ---------------------------------------------------------------------


@pytest.mark.parametrize("split", formats.SPLITS)
def test_the_references_training_reads_it(reference: Any, built: Any, split: str) -> None:
    from cn_clip.clip import tokenize

    dataset = reference[0](str(built.lmdb / split), split=split, max_txt_length=52, resolution=64)
    with PairsLmdb(built.lmdb / split) as packed:
        assert len(dataset) == len(packed)
        assert dataset.number_images == packed.num_images
        pairs = packed.pairs()
        files = {image: packed.picture(image) for image, _, _ in pairs}
    for number, (image, _, text) in enumerate(pairs):
        pixels, tokens, _ = dataset[number]
        assert tokens.tolist() == tokenize([text.lower()], 52)[0].tolist()
        ours = pictures.normalize(pictures.to_array(pictures.decode(files[image]), 64)[None])[0]
        assert np.abs(pixels.numpy() - ours).max() < 1e-5


def test_the_references_extraction_reads_every_picture_once(reference: Any, built: Any) -> None:
    dataset = reference[1](str(built.lmdb / "train" / "imgs"), resolution=64)
    assert len(dataset) == 14
    with PairsLmdb(built.lmdb / "train") as packed:
        files = {image: packed.picture(image) for image, _, _ in packed.pairs()}
    seen = [dataset[number] for number in range(len(dataset))]
    assert sorted(image for image, _ in seen) == sorted(files)
    for image, pixels in seen:
        ours = pictures.normalize(pictures.to_array(pictures.decode(files[image]), 64)[None])[0]
        assert np.abs(pixels.numpy() - ours).max() < 1e-5


def test_mistake_01_repeated_lines_cost_no_picture(
    reference: Any, pack: Callable[..., Path]
) -> None:
    """20 pictures + 3 lines again, in batches of 8: the reference's own LMDB yields 16."""
    from torch.utils.data import DataLoader, SequentialSampler

    lines = [(number, png((10 * number, 0, 0))) for number in range(1, 21)]
    lines[5:5] = lines[:2]
    lines.append(lines[0])
    texts = [Text(text_id=1, text="红", image_ids=tuple(range(1, 21)))]
    folder = pack(lines, texts)
    assert len(lines) == 23
    assert keys_of(folder / "imgs")[b"num_images"] == b"20"
    dataset = reference[1](str(folder / "imgs"), resolution=32)
    loader = DataLoader(dataset, batch_size=8, sampler=SequentialSampler(dataset))
    found = {
        int(image): pixels
        for ids, batch in loader
        for image, pixels in zip(ids, batch, strict=True)
    }
    assert sorted(found) == list(range(1, 21))
    for image, pixels in found.items():
        red = (10 * image / 255 - pictures.MEAN[0]) / pictures.STD[0]
        assert abs(float(pixels[0].mean()) - red) < 1e-5


# --- never into what is there -----------------------------------------------------------------


def test_mistake_02_packing_never_goes_into_an_existing_lmdb(built: Any, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    shutil.copytree(built.lmdb / "train", folder)
    before = {path: path.read_bytes() for path in folder.rglob("data.mdb")}
    stage = Stage("pack_lmdb", tmp_path / "out", Config(), {})
    with pytest.raises(InputError, match="train exists; an LMDB is never packed into an existing"):
        pack_split(built.tsv, "test", folder, stage)
    assert {path: path.read_bytes() for path in folder.rglob("data.mdb")} == before


def test_mistake_02_a_rebuild_holds_no_old_keys(pack: Callable[..., Path]) -> None:
    many = [(number, png((number, 0, 0))) for number in range(1, 9)]
    pack(many, [Text(text_id=1, text="红", image_ids=tuple(range(1, 9)))])
    folder = pack([(20, png((0, 9, 0)))], [Text(text_id=2, text="绿", image_ids=(20,))])
    assert keys_of(folder / "imgs").keys() == {b"20", b"num_images"}
    pairs = keys_of(folder / "pairs")
    assert pairs.keys() == {b"0", b"num_samples"}
    assert pickle.loads(pairs[b"0"]) == (20, 2, "绿")


def test_mistake_03_the_lmdb_holds_the_files_own_bytes(built: Any) -> None:
    sources = {path.read_bytes() for path in (built.collection / "pictures").iterdir()}
    for split in formats.SPLITS:
        with PairsLmdb(built.lmdb / split) as packed:
            for image in {image for image, _, _ in packed.pairs()}:
                assert packed.picture(image) in sources


def test_mistake_03_a_jpeg_is_not_encoded_again(pack: Callable[..., Path]) -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", quality=98)
    texts = [Text(text_id=1, text="噪声", image_ids=(1,))]
    with PairsLmdb(pack([(1, buffer.getvalue())], texts)) as packed:
        assert packed.picture(1) == buffer.getvalue()


# --- mistakes ---------------------------------------------------------------------------------


def test_a_caption_of_a_picture_that_is_not_there_is_named(pack: Callable[..., Path]) -> None:
    with pytest.raises(FormatError, match="the caption 7 names the picture 2, which the TSV lacks"):
        pack([(1, b"a")], [Text(text_id=7, text="狗", image_ids=(1, 2))])


def test_an_empty_training_split_is_named(pack: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no picture is left to train on: give more captions"):
        pack([], [])
    assert not (tmp_path / "lmdb" / "manifest.json").exists()


def test_an_output_of_another_stage_is_refused(built: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="written by the stage finetune; here one of pairs"):
        pack_lmdb(catalog=built.checkpoint, tsv=built.tsv, out=tmp_path / "o", config=Config())


def test_a_broken_line_is_named(built: Any, tmp_path: Path) -> None:
    tsv = shutil.copytree(built.tsv, tmp_path / "tsv")
    with (tsv / "train_imgs.tsv").open("ab") as file:
        file.write(b"15 no tab\n")
    with pytest.raises(FormatError, match=r"train_imgs\.tsv, line 15"):
        pack_lmdb(catalog=built.catalog, tsv=tsv, out=tmp_path / "lmdb", config=Config())


def packed(built: Any, out: Path) -> dict[str, bytes]:
    """A finished output, and its files."""
    pack_lmdb(catalog=built.catalog, tsv=built.tsv, out=out, config=Config())
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_a_wrong_tsv_leaves_the_lmdb_that_is_there(built: Any, tmp_path: Path) -> None:
    out = tmp_path / "lmdb"
    before = packed(built, out)
    (tmp_path / "empty").mkdir()
    broken = shutil.copytree(built.tsv, tmp_path / "broken")
    (broken / "test_texts.jsonl").write_text("no json\n")
    for tsv in (tmp_path / "empty", tmp_path / "nowhere", built.catalog, broken):
        with pytest.raises((InputError, FormatError)):
            pack_lmdb(catalog=built.catalog, tsv=tsv, out=out, config=Config())
        assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with PairsLmdb(out / "train") as split:
        assert len(split) == 28


def test_a_tsv_of_another_run_of_pairs_is_refused(
    built: Any, collection: Path, pair: Callable[..., Any], tmp_path: Path
) -> None:
    (collection / "pictures/0000.png").unlink()
    pair(collection, str(collection), str(tmp_path / "store"))
    with pytest.raises(InputError, match=r"tsv and --catalog .* are of different runs of pairs"):
        pack_lmdb(
            catalog=built.catalog, tsv=tmp_path / "tsv", out=tmp_path / "lmdb", config=Config()
        )
    (tmp_path / "tsv/manifest.json").unlink()  # cut off while it was written
    with pytest.raises(FormatError, match="tsv is not finished"):
        pack_lmdb(
            catalog=tmp_path / "catalog",
            tsv=tmp_path / "tsv",
            out=tmp_path / "lmdb",
            config=Config(),
        )
