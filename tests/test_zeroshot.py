"""Zero-shot: labels and suites as people have them; scores against a slow obvious computation."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import wentu
from wentu import cli, zeroshot
from wentu.clip.encoder import Encoder
from wentu.errors import InputError
from wentu.progress import Reporter
from wentu.zeroshot import TEMPLATES, Suite, embed_labels, probabilities, read_labels, score

Floats = npt.NDArray[np.float32]


class Stub(Encoder):
    """Texts and pictures become vectors drawn from what they are: nothing to learn, all exact."""

    dimension, logit_scale = 16, 20.0

    def encode_text(self, texts: Sequence[str]) -> Floats:
        return np.stack([drawn(text.encode()) for text in texts])

    def encode_image(self, images: Sequence[Any]) -> Floats:
        return np.stack([drawn(image.tobytes()) for image in images])


def drawn(data: bytes) -> Floats:
    seed = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
    vector = np.random.default_rng(seed).normal(size=16).astype(np.float32)
    return vector / np.linalg.norm(vector)


def picture(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (number % 256, 7 * number % 256, 0)).save(path)
    return path


# --- labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["猫,狗,大象", "猫，狗，大象", "猫、狗、大象", " 猫 , 狗,,大象 ,"])
def test_labels_are_parted_by_any_comma(text: str) -> None:
    assert read_labels(text) == ["猫", "狗", "大象"]


def test_labels_come_from_a_file_one_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "labels.txt").write_bytes("\ufeff猫\r\n\r\n a, b \n狗".encode())
    assert read_labels(str(tmp_path / "labels.txt")) == ["猫", "a, b", "狗"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_labels("~/labels.txt")[0] == "猫"


def test_many_labels_are_no_name_of_a_file() -> None:
    labels = [f"标签{number}号" for number in range(300)]
    assert read_labels("，".join(labels)) == labels


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("猫", "only 1 found"),
        ("", "only 0 found"),
        (",,", "only 0 found"),
        ("nothing.txt", "only 1 found"),
        ("猫,狗,猫", "'猫' comes twice"),
    ],
)
def test_labels_that_cannot_work_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=f"--labels needs two or more different .*{sentence}"):
        read_labels(text)


def test_labels_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "gbk.txt").write_bytes("猫\n狗".encode("gbk"))
    with pytest.raises(InputError, match=r"gbk\.txt is not UTF-8"):
        read_labels(str(tmp_path / "gbk.txt"))


def test_sentences_are_in_the_language_of_the_labels() -> None:
    assert zeroshot.templates_for(["cat", "猫"]) == TEMPLATES["zh"]
    assert zeroshot.templates_for(["cat", "dog"]) == TEMPLATES["en"]
    assert all(
        "{}" in each and "{}" in TEMPLATES[lang] for lang in TEMPLATES for each in TEMPLATES[lang]
    )


# --- suites -----------------------------------------------------------------------------------


def shown(suite: Suite) -> list[tuple[str, str]]:
    return [(path.name, suite.labels[row]) for path, row in suite.pictures]


def test_a_folder_per_class_is_a_suite(tmp_path: Path) -> None:
    for number, name in enumerate(("猫/a.png", "猫/deep/b.jpg", "狗/c.png", "象/d.png")):
        picture(tmp_path / name, number)
    for name in (".cache/x.png", "@eaDir/y.png", "_old/z.png", "猫/notes.txt", "read me.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    suite = Suite.open(tmp_path)
    assert sorted(suite.labels) == sorted(["猫", "狗", "象"])
    expected = [("a.png", "猫"), ("b.jpg", "猫"), ("c.png", "狗"), ("d.png", "象")]
    assert sorted(shown(suite)) == expected


def test_labels_may_be_given_in_another_order_and_be_more_than_the_folders(tmp_path: Path) -> None:
    for number, name in enumerate(("猫/a.png", "狗/b.png")):
        picture(tmp_path / name, number)
    suite = Suite.open(tmp_path, ["象", "狗", "猫"])
    assert suite.labels == ["象", "狗", "猫"]
    assert sorted(shown(suite)) == [("a.png", "猫"), ("b.png", "狗")]


@pytest.mark.parametrize("name", ["label_cn.txt", "labels.txt"])
def test_the_layout_of_the_references_sets_is_a_suite(tmp_path: Path, name: str) -> None:
    labels = [f"类{number}" for number in range(12)]
    (tmp_path / name).write_text("\n".join(labels), "utf-8")
    for number in (0, 3, 11):
        picture(tmp_path / f"test/{number:03d}/{number}.jpg", number)
    picture(tmp_path / "train/000/other.jpg", 99)
    suite = Suite.open(tmp_path)
    assert suite.labels == labels
    assert shown(suite) == [("0.jpg", "类0"), ("3.jpg", "类3"), ("11.jpg", "类11")]
    given = Suite.open(tmp_path, [f"class {number}" for number in range(12)])
    assert shown(given)[2] == ("11.jpg", "class 11")


@pytest.mark.parametrize(
    ("names", "labels", "sentence"),
    [
        ([], None, "not understood: -"),
        (["猫/a.png"], None, "not understood: -"),
        (["猫/a.png", "鸟/b.png"], ["猫", "狗"], "not understood: 猫, 鸟"),
        (["000/a.png", "002/b.png"], ["猫", "狗"], "not understood: 002"),
    ],
)
def test_what_is_no_suite_is_refused(
    tmp_path: Path, names: list[str], labels: list[str] | None, sentence: str
) -> None:
    for number, name in enumerate(names):
        picture(tmp_path / name, number)
    with pytest.raises(InputError, match=f"expected a folder per class.*{sentence}"):
        Suite.open(tmp_path, labels)


def test_a_suite_without_pictures_or_without_a_folder_is_named(tmp_path: Path) -> None:
    for name in ("猫", "狗"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="holds no picture"):
        Suite.open(tmp_path)
    with pytest.raises(InputError, match=r"--suite .*nowhere: no such folder"):
        Suite.open(tmp_path / "nowhere")


# --- figures ----------------------------------------------------------------------------------


def slow_label(encoder: Stub, label: str, templates: Sequence[str]) -> list[float]:
    """The mean of its sentences' vectors, of length 1."""
    vectors = [encoder.encode_text([each.replace("{}", label)])[0] for each in templates]
    mean = [sum(float(v[i]) for v in vectors) / len(vectors) for i in range(16)]
    length = math.sqrt(sum(value * value for value in mean))
    return [value / length for value in mean]


def slow_cosines(
    encoder: Stub, image: Image.Image, labels: list[str], templates: Sequence[str]
) -> list[float]:
    vector = encoder.encode_image([image])[0].tolist()
    vectors = [slow_label(encoder, label, templates) for label in labels]
    return [sum(a * b for a, b in zip(vector, each, strict=True)) for each in vectors]


def test_a_label_is_the_mean_of_its_sentences() -> None:
    labels = ["猫", "{} a brace", "100 %"]
    found = embed_labels(Stub(), labels, TEMPLATES["zh"])
    expected = [slow_label(Stub(), label, TEMPLATES["zh"]) for label in labels]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    odd = embed_labels(Stub(), ["猫"], ["{} {x} {0}"])
    np.testing.assert_allclose(odd[0], Stub().encode_text(["猫 {x} {0}"])[0], atol=1e-6)


def test_probabilities_are_the_softmax_of_the_scaled_cosines() -> None:
    images = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    labels = ["猫", "狗", "大象", "鸟"]
    found = probabilities(Stub(), images, labels, TEMPLATES["zh"])
    for row, image in zip(found, images, strict=True):
        powers = [
            math.exp(20.0 * cosine)
            for cosine in slow_cosines(Stub(), image, labels, TEMPLATES["zh"])
        ]
        np.testing.assert_allclose(row, [power / sum(powers) for power in powers], rtol=1e-4)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)


def test_figures_are_those_of_an_obvious_computation(tmp_path: Path) -> None:
    """12 classes of different sizes, 70 pictures (more than two batches), 3 not to be read."""
    sizes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 0]
    labels = [f"类{number}" for number in range(12)]
    files = [
        (picture(tmp_path / f"{row}/{n}.png", 31 * row + n), row)
        for row, size in enumerate(sizes)
        for n in range(size)
    ]
    for path, _ in files[:1] + files[40:42]:
        path.write_bytes(b"broken")
    suite = Suite(labels=labels, pictures=files)
    found = score(Stub(), suite, TEMPLATES["zh"], Reporter())
    right: dict[int, list[int]] = {}
    for path, row in files:
        try:
            with Image.open(path) as opened:
                cosines = slow_cosines(Stub(), opened.convert("RGB"), labels, TEMPLATES["zh"])
        except OSError:
            continue
        order = sorted(range(12), key=lambda label: -cosines[label])
        right.setdefault(row, []).append(order.index(row) + 1)
    ranks = [rank for each in right.values() for rank in each]
    assert len(ranks) == 67
    assert found.top1 == pytest.approx(sum(rank == 1 for rank in ranks) / 67)
    assert found.top5 == pytest.approx(sum(rank <= 5 for rank in ranks) / 67)
    assert 0 < found.top1 < found.top5 < 1
    shares = {row: sum(rank == 1 for rank in each) / len(each) for row, each in right.items()}
    expected = [(labels[row], len(right[row]), share) for row, share in sorted(shares.items())]
    assert [row[:2] for row in found.per_class] == [row[:2] for row in expected]
    assert [row[2] for row in found.per_class] == pytest.approx([row[2] for row in expected])
    assert found.mean_per_class == pytest.approx(sum(shares.values()) / len(shares))
    assert found.unreadable == 3
    assert "类0" not in {label for label, _, _ in found.per_class}  # its only one was broken


def test_a_suite_of_broken_pictures_is_one_sentence(tmp_path: Path) -> None:
    for name in ("猫/a.png", "狗/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(InputError, match="no picture of the suite can be read"):
        score(Stub(), Suite.open(tmp_path), TEMPLATES["zh"], Reporter())


# --- the command ------------------------------------------------------------------------------


def classify(*words: str) -> Result:
    return CliRunner().invoke(cli.build(), ["classify", *words])


@pytest.fixture
def suite(built: Any, tmp_path: Path) -> Path:
    """Drawings in three classes."""
    for number, label in enumerate(("红色圆形", "蓝色方块", "绿色三角形") * 4):
        target = tmp_path / "suite" / label / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(built.collection / f"pictures/{number:04d}.png", target)
    return tmp_path / "suite"


def test_pictures_are_classified_with_the_current_release(built: Any) -> None:
    paths = [str(built.collection / f"pictures/{number:04d}.png") for number in range(3)]
    words = [*paths, "--labels", "红色圆形,蓝色方块", "--store", built.store]
    done = classify(*words, "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert [row["picture"] for row in rows] == paths
    encoder = wentu.load(built.store)
    expected = probabilities(
        encoder, [Image.open(path) for path in paths], ["红色圆形", "蓝色方块"], TEMPLATES["zh"]
    )
    for row, values in zip(rows, expected.tolist(), strict=True):
        assert list(row["labels"].values()) == pytest.approx(values, abs=1e-6)
        assert sum(row["labels"].values()) == pytest.approx(1)
    shown = classify(*words)
    assert shown.exit_code == 0
    best = max(expected[0])
    assert f"{100 * best:.1f} %" in shown.stdout
    assert "0000.png" in shown.stdout


def test_two_models_are_shown_side_by_side(
    built: Any, built_converted: Any, suite: Path, tmp_path: Path
) -> None:
    models = [str(built.bundle), str(built_converted.checkpoint / "epoch_best.pt")]
    words = [word for model in models for word in ("--model", model)]
    done = classify("--suite", str(suite), *words, "--json")
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert list(values) == models
    for model in models:
        expected = score(wentu.load(model), Suite.open(suite), TEMPLATES["zh"], Reporter())
        assert values[model]["top1"] == pytest.approx(expected.top1)
        assert [tuple(row) for row in values[model]["per_class"]] == expected.per_class
        assert sum(count for _, count, _ in expected.per_class) == 12
    shown = classify("--suite", str(suite), *words).stdout
    head = next(line for line in shown.splitlines() if "bundle" in line)
    assert head.split()[-2:] == ["bundle", "epoch_best.pt"]
    (top1,) = (line for line in shown.splitlines() if "top-1" in line)
    percent = [f"{100 * values[model]['top1']:.1f}" for model in models]
    assert [word for word in top1.split() if "." in word] == percent
    for label in ("红色圆形", "蓝色方块", "绿色三角形"):
        assert label in shown
    picture_ = str(built.collection / "pictures/0000.png")
    both = classify(picture_, "--labels", "圆,方", *words).stdout
    assert "bundle" in both
    assert "epoch_best.pt" in both


def test_a_picture_that_cannot_be_read_costs_the_others_nothing_but_the_status(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = str(built.collection / "pictures/0000.png")
    bad, gone = tmp_path / "bad.png", tmp_path / "gone.png"
    bad.write_bytes(b"broken")
    words = ["--labels", "圆,方", "--store", built.store, "--json"]
    done = classify(str(bad), good, str(gone), *words)
    assert isinstance(done.exception, InputError)
    assert done.exception.exit_code != 0
    assert "2 of 3 pictures cannot be read" in str(done.exception)
    assert "bad.png" in str(done.exception)
    assert "gone.png" in str(done.exception)
    rows = json.loads(done.stdout)
    assert [row["picture"] for row in rows] == [good]
    assert classify(str(bad), *words).stdout == ""
    monkeypatch.setattr(sys, "argv", ["wentu", "classify", str(bad), good, *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out) == rows
    assert shown.err.startswith("Error: 1 of 2 pictures cannot be read: ")


def test_a_picture_of_a_suite_that_cannot_be_read_is_counted(built: Any, suite: Path) -> None:
    (suite / "红色圆形" / "broken.png").write_bytes(b"broken")
    done = classify("--suite", str(suite), "--store", built.store)
    assert done.exit_code == 0, done.output
    assert "1 pictures could not be read" in done.stdout


def test_sentences_of_the_users_own_are_used(built: Any, suite: Path) -> None:
    words = ["--suite", str(suite), "--store", built.store, "--json"]
    done = classify(*words, "--template", "画的是{}", "--template", "{}")
    values = json.loads(done.stdout)[built.store]
    encoder = wentu.load(built.store)
    expected = score(encoder, Suite.open(suite), ["画的是{}", "{}"], Reporter())
    assert values["top1"] == pytest.approx(expected.top1)
    assert values["top5"] == 1.0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["a.png"], "give pictures and --labels, or --suite DIR"),
        (["--labels", "a,b"], "give pictures and --labels, or --suite DIR"),
        (["a.png", "--suite", "x"], "give pictures and --labels, or --suite DIR"),
        (["a.png", "--labels", "a"], "--labels needs two or more"),
        (["a.png", "--labels", "a,b", "--template", "photo"], "--template 'photo' has no {}"),
        (["a.png", "--labels", "a,b", "--store", "none"], "none"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = classify(*words)
    assert isinstance(done.exception, InputError)
    assert sentence in str(done.exception)
