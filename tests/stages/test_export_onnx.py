"""export_onnx: the same numbers as torch, in true float32, for any batch and text length."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

import wentu
from wentu import formats, pictures
from wentu.clip import checkpoint
from wentu.clip.bundle import Bundle, bundle_digest, training_of
from wentu.clip.text import Tokenizer
from wentu.errors import FormatError, InputError, QualityError
from wentu.formats import read_manifest
from wentu.stages.export_onnx import Config, export_onnx, samples
from wentu.store import Store

TEXTS = ["一只黑狗在雪地里奔跑", "红色圆形", "a red car", "", "长" * 80]
FloatArray = npt.NDArray[np.float32]


def files_of(built: Any, count: int = 9) -> list[bytes]:
    return [path.read_bytes() for path in sorted((built.collection / "pictures").iterdir())[:count]]


def constants(path: Path) -> list[npt.NDArray[Any]]:
    """Every array that an ONNX file holds."""
    graph = onnx.load(str(path)).graph
    found = [numpy_helper.to_array(each) for each in graph.initializer]
    for node in graph.node:
        tensors = (each.t for each in node.attribute if each.type == onnx.AttributeProto.TENSOR)
        found += [numpy_helper.to_array(each) for each in tensors]
    return found


def run(bundle: Path, name: str, batch: npt.NDArray[Any]) -> FloatArray:
    session = onnxruntime.InferenceSession(str(bundle / f"{name}.onnx"))
    result: FloatArray = session.run([f"unnorm_{name}_features"], {name: batch})[0]
    return result


def prepared(built: Any, count: int = 9) -> FloatArray:
    arrays = [pictures.to_array(pictures.decode(data), 64) for data in files_of(built, count)]
    return pictures.normalize(np.stack(arrays))


def in_float64(model: Any) -> Any:
    """The whole model: cn_clip's LayerNorm would go down to float32 in between."""
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.__class__ = torch.nn.LayerNorm
    return model.double()


# --- what it writes ---------------------------------------------------------------------------


def test_a_bundle_is_written_with_its_proof(built: Any) -> None:
    names = {"bundle.json", "text.onnx", "image.onnx", "tokenizer.json"}
    names |= {"history.json", "training_groups.json", "manifest.json", ".wentu"}
    assert {path.name for path in built.bundle.iterdir()} == names
    manifest = read_manifest(built.bundle, "export_onnx")
    assert manifest.counts["model"] == bundle_digest(built.bundle)
    assert 0.9999 <= manifest.counts["parity_text"] <= 1.00001
    assert 0.9999 <= manifest.counts["parity_image"] <= 1.00001
    assert manifest.inputs["finetune"] == read_manifest(built.checkpoint).digest


def test_a_bundle_says_what_it_is_and_where_it_came_from(built: Any) -> None:
    info = json.loads((built.bundle / "bundle.json").read_text("utf-8"))
    assert (info["architecture"], info["family"], info["dimension"]) == (
        "tiny",
        "chinese-clip",
        128,
    )
    assert Bundle(built.bundle).processor.resolution == 64
    assert info["checkpoint"] == formats.file_sha256(built.checkpoint / "epoch_best.pt")
    assert info["training"]["model"] == "scratch:tiny"
    model = checkpoint.load(built.checkpoint / "epoch_best.pt").model()
    assert info["logit_scale"] == pytest.approx(float(model.logit_scale.detach().exp()))
    history, groups = training_of(built.bundle)
    assert [row["epoch"] for row in history] == [0, 1]
    assert groups == checkpoint.load(built.checkpoint / "epoch_best.pt").info["groups"]
    assert "groups" not in info["training"]


def test_inputs_and_outputs_are_named_and_typed_as_documented(built: Any) -> None:
    for name, kind, shape in (
        ("text", "tensor(int64)", ["batch", "length"]),
        ("image", "tensor(float)", ["batch", 3, 64, 64]),
    ):
        session = onnxruntime.InferenceSession(str(built.bundle / f"{name}.onnx"))
        (given,), (result,) = session.get_inputs(), session.get_outputs()
        assert (given.name, given.type, given.shape) == (name, kind, shape)
        assert (result.name, result.type) == (f"unnorm_{name}_features", "tensor(float)")
        assert result.shape == ["batch", 128]


# --- true float32 -----------------------------------------------------------------------------


def test_mistake_07_every_weight_is_exported_with_all_its_bits(built: Any) -> None:
    state = checkpoint.load(built.checkpoint / "epoch_best.pt").state

    def bits(values: npt.NDArray[Any]) -> bytes:
        return np.sort(values, axis=None).tobytes()  # some are written transposed

    lossy = 0
    for name in ("text", "image"):
        arrays = constants(built.bundle / f"{name}.onnx")
        assert not [array for array in arrays if array.dtype == np.float16]
        held = {bits(array) for array in arrays if array.dtype == np.float32}
        for key, tensor in state.items():
            if key != "logit_scale" and key.startswith("visual.") == (name == "image"):
                values = tensor.numpy()
                assert bits(values) in held, key
                lossy += not np.array_equal(values, values.astype(np.float16))
    assert lossy > 30  # of those that were compared, so many would have changed in float16


def test_mistake_07_features_are_those_of_float64(built: Any) -> None:
    """And a model that went through float16 is told apart."""
    loaded = checkpoint.load(built.checkpoint / "epoch_best.pt")
    exact = in_float64(loaded.model())
    rounded = loaded.model().half().float()
    tokens = Tokenizer.chinese_bert().encode(TEXTS)
    images = prepared(built)
    with torch.no_grad():
        for name, batch, cast in (
            ("text", tokens, torch.from_numpy(tokens)),
            ("image", images, torch.from_numpy(images).double()),
        ):
            truth = getattr(exact, f"encode_{name}")(cast).numpy()
            single = cast.float() if name == "image" else cast
            coarse = getattr(rounded, f"encode_{name}")(single).numpy()
            scale = np.abs(truth).max()
            assert np.abs(run(built.bundle, name, batch) - truth).max() < 1e-5 * scale
            assert np.abs(coarse - truth).max() > 1e-4 * scale


def test_mistake_07_a_checkpoint_is_loaded_on_the_cpu_with_all_its_bits(built: Any) -> None:
    path = built.checkpoint / "epoch_best.pt"
    raw = torch.load(path, weights_only=True)["state_dict"]
    model = checkpoint.load(path).model()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, raw[f"module.{name}"])


def test_every_way_to_load_the_model_gives_the_same_vectors(built: Any) -> None:
    """The bundle, the store it was released into, and the checkpoint."""
    places = (built.bundle, built.store, built.checkpoint / "epoch_best.pt")
    encoders = [wentu.load(str(place)) for place in places]
    images = files_of(built, 3)
    for encoder in encoders:
        text, image = encoder.encode_text(TEXTS), encoder.encode_image(images)
        np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(text, encoders[0].encode_text(TEXTS), atol=1e-6)
        np.testing.assert_allclose(image, encoders[0].encode_image(images), atol=1e-6)
        assert encoder.dimension == 128
    labels = encoders[0].probabilities(images[0], ["红色圆形", "蓝色月牙"])
    assert sum(labels.values()) == pytest.approx(1)


def test_mistake_05_a_query_with_curly_quotes_is_served_as_trained(built: Any) -> None:
    bundle = Bundle(built.bundle)
    curly, straight = bundle.encode_text(["“你好”,世界"]), bundle.encode_text(['"你好",世界'])
    assert np.array_equal(curly, straight)
    assert not np.array_equal(curly, bundle.encode_text(["你好,世界"]))


# --- how input is prepared --------------------------------------------------------------------


def wide(left: str, right: str) -> Image.Image:
    """What tells it from another is at its ends."""
    picture = Image.new("RGB", (300, 100), "grey")
    picture.paste(left, (0, 0, 90, 100))
    picture.paste(right, (210, 0, 300, 100))
    return picture


def test_what_is_served_crops_as_it_was_trained(built: Any, built_converted: Any) -> None:
    places = (built.bundle, built_converted.bundle)
    squash, crop = (Bundle(place) for place in places)
    assert squash.processor.preprocessing.resize == "squash"
    assert crop.processor.preprocessing.resize == "crop"
    released = Store(built_converted.store).current()
    assert released is not None
    served = Bundle(Store(built_converted.store).model(released[1].model)).processor
    assert served.preprocessing == crop.processor.preprocessing
    one, two = wide("red", "blue"), wide("blue", "red")
    for bundle, same in ((squash, False), (crop, True)):
        vectors = bundle.encode_image([one, two])
        assert np.allclose(vectors[0], vectors[1], atol=1e-6) == same
    torch_side = wentu.load(str(built_converted.checkpoint / "epoch_best.pt"))
    np.testing.assert_allclose(crop.encode_image([one]), torch_side.encode_image([one]), atol=1e-5)


def test_what_is_served_converts_queries_as_captions_were(built_converted: Any) -> None:
    bundle = Bundle(built_converted.bundle)
    assert bundle.processor.convert == "tw2sp"
    traditional, simplified = ["滑鼠", "一隻貓", "紅色的圓形"], ["鼠标", "一只猫", "红色的圆形"]
    assert np.array_equal(bundle.encode_text(traditional), bundle.encode_text(simplified))
    torch_side = wentu.load(str(built_converted.checkpoint / "epoch_best.pt"))
    assert np.array_equal(torch_side.encode_text(traditional), torch_side.encode_text(simplified))


# --- any batch, any length --------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_mistake_12_any_number_of_pictures_goes_through(built: Any, size: int) -> None:
    images = prepared(built)
    one_by_one = np.concatenate(
        [run(built.bundle, "image", images[i : i + 1]) for i in range(size)]
    )
    together = run(built.bundle, "image", images[:size])
    assert together.shape == (size, 128)
    np.testing.assert_allclose(together, one_by_one, atol=2e-5)


@pytest.mark.parametrize("length", [3, 8, 24, 52])
def test_mistake_12_any_length_of_text_goes_through(built: Any, length: int) -> None:
    tokens = Tokenizer.chinese_bert().encode([*TEXTS[:2], "长" * length], length)
    assert tokens.shape == (3, length)
    padded = np.zeros((3, 52), np.int64)
    padded[:, :length] = tokens
    found = run(built.bundle, "text", tokens)
    np.testing.assert_allclose(found, run(built.bundle, "text", padded), atol=2e-5)
    alone = np.concatenate([run(built.bundle, "text", tokens[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(found, alone, atol=2e-5)


def test_a_bundle_encodes_in_any_batches_and_in_order(built: Any) -> None:
    bundle = Bundle(built.bundle)
    texts = [("狗" * (n % 7)) + str(n) for n in range(20)]
    whole = bundle.encode_text(texts)
    np.testing.assert_allclose(bundle.encode_text(texts, batch_size=3), whole, atol=1e-6)
    np.testing.assert_allclose(bundle.encode_text(texts[4:5]), whole[4:5], atol=1e-6)
    images = files_of(built, 5)
    np.testing.assert_allclose(
        bundle.encode_image(images, batch_size=2), bundle.encode_image(images), atol=1e-6
    )
    assert bundle.encode_text([]).shape == bundle.encode_image([]).shape == (0, 128)


# --- bundles that are there already -----------------------------------------------------------


def export(built: Any, out: Path, **changed: Any) -> None:
    given: dict[str, Any] = {
        "catalog": built.catalog,
        "pictures": str(built.collection),
        "store": built.store,
        "config": Config(),
    }
    export_onnx(**given | changed, out=out)


def test_a_ready_bundle_is_passed_on_unchanged(built: Any, tmp_path: Path) -> None:
    digest = bundle_digest(built.bundle)
    for number, model in enumerate((str(built.bundle), built.store, f"store:{digest}")):
        export(built, tmp_path / f"{number}", model=model)
        assert bundle_digest(tmp_path / f"{number}") == digest
        assert training_of(tmp_path / f"{number}") == training_of(built.bundle)
        assert read_manifest(tmp_path / f"{number}", "export_onnx").counts["model"] == digest


def test_a_checkpoint_that_is_named_is_exported(built: Any, tmp_path: Path) -> None:
    export(built, tmp_path / "out", model=str(built.checkpoint / "epoch_best.pt"))
    images = files_of(built, 4)
    ours, theirs = (Bundle(p).encode_image(images) for p in (tmp_path / "out", built.bundle))
    assert np.array_equal(ours, theirs)
    assert training_of(tmp_path / "out") == ([], training_of(built.bundle)[1])


def test_the_proof_takes_captions_and_pictures_of_the_collection(built: Any) -> None:
    texts, images = samples(built.catalog, str(built.collection), 5)
    with closing(formats.open_catalog(built.catalog / "catalog.sqlite")) as db:
        captions = {row[0] for row in db.execute("SELECT text FROM texts")}
    assert len(captions & set(texts)) == 5
    assert len(images) == 5
    assert set(images) <= set(files_of(built, 24))


# --- mistakes ---------------------------------------------------------------------------------


def test_a_model_without_weights_is_named(built: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tiny has no weights to export"):
        export(built, tmp_path / "out", model="tiny")


def test_an_export_that_differs_is_not_released(built: Any, tmp_path: Path) -> None:
    """Weights that are no numbers give embeddings that are none, equal to nothing."""
    loaded = checkpoint.load(built.checkpoint / "epoch_best.pt")
    model = loaded.model()
    with torch.no_grad():
        model.text_projection.fill_(float("nan"))
    path = tmp_path / "nan.pt"
    checkpoint.save(path, model.state_dict(), loaded, epoch=1, step=1, info={})
    with pytest.raises(QualityError, match="the exported model differs from the trained one"):
        export(built, tmp_path / "out", model=str(path))
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("broken", ["missing", "version"])
def test_what_is_no_bundle_is_refused(built: Any, tmp_path: Path, broken: str) -> None:
    export(built, tmp_path / "out", model=str(built.bundle))
    if broken == "missing":
        (tmp_path / "out" / "text.onnx").unlink()
        sentence = r"out is no model bundle: text\.onnx missing"
    else:
        info = json.loads((built.bundle / "bundle.json").read_text("utf-8"))
        path = tmp_path / "out" / "bundle.json"
        path.unlink()  # it may be a link to the original
        path.write_text(json.dumps(info | {"format": formats.FORMAT + 1}), "utf-8")
        sentence = f"out has format {formats.FORMAT + 1}; this wentu reads {formats.FORMAT}"
    with pytest.raises(FormatError, match=sentence):
        Bundle(tmp_path / "out")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"parity": 1.1}, r"--parity 1\.1: give a cosine up to 1"),
        ({"parity": 0.0}, r"--parity 0\.0: give a cosine"),
        ({"parity_samples": 0}, "--parity-samples 0: give 1 or more"),
    ],
)
def test_options_that_cannot_work_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Config(**wrong)
