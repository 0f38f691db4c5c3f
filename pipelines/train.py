"""The flow, top to bottom. `make compile` writes it to pipeline.yaml, which is what runs anywhere.

Seconds beside each stage: the demo (1,920 pictures, two CPU cores).
"""

from kfp import dsl

from components.evaluate import evaluate
from components.export_onnx import export_onnx
from components.features import features
from components.finetune import finetune
from components.index import index
from components.inventory import inventory
from components.pack_lmdb import pack_lmdb
from components.pairs import pairs
from components.promote import promote


@dsl.pipeline(name="wentu", description="Pictures and captions into a proven model and a search.")
def wentu(
    pictures: str,
    captions: str = "none",
    store: str = "wentu-store",
    model: str = "",
    code_version: str = "",
    train: bool = True,
    min_new: int = -1,
    max_deleted: float = 0.5,
    valid_fraction: float = 0.05,
    test_fraction: float = 0.10,
    max_rejected: float = 0.05,
    split: str = "open",
    convert: str = "none",
    picture_column: str = "",
    caption_column: str = "",
    context_length: int = 0,
    scratch: bool = False,
    epochs: int = 3,
    batch_size: int = 64,
    learning_rate: float = 2e-5,
    warmup: float = 0.1,
    weight_decay: float = 0.05,
    clip_norm: float = 1.0,
    precision: str = "auto",
    resize: str = "auto",
    augment: str = "none",
    seed: int = 0,
    save_seconds: float = 60.0,
    parity: float = 0.9999,
    parity_samples: int = 128,
    confidence: float = 0.95,
    resamples: int = 2000,
    embed_batch_size: int = 32,
    min_recall: float = 0.98,
):
    settings = (
        f"{model} {scratch} {epochs} {batch_size} {learning_rate} {warmup} {weight_decay} "
        f"{clip_norm} {precision} {resize} {augment} {seed} {context_length} "
        f"{valid_fraction} {test_fraction} {split} {convert} {picture_column} {caption_column}"
    )
    where = {"pictures": pictures, "store": store}
    code = {"code_version": code_version}
    plan = inventory(
        **where,
        captions=captions,
        model=model,
        settings=settings,
        scratch=scratch,
        train=train,
        min_new=min_new,
        max_deleted=max_deleted,
    ).set_caching_options(False)
    listed = {"inventory": plan.outputs["inventory"]}
    weights = {"model": plan.outputs["use"], "model_digest": plan.outputs["use_digest"]}
    pointer = {"pointer": plan.outputs["pointer"]}
    pairing = {
        "captions": captions,
        "valid_fraction": valid_fraction,
        "test_fraction": test_fraction,
        "max_rejected": max_rejected,
        "context_length": context_length,
        "split": split,
        "convert": convert,
        "picture_column": picture_column,
        "caption_column": caption_column,
    }
    proof = {"parity": parity, "parity_samples": parity_samples}
    ending = {
        "captions": captions,
        "attempt": plan.outputs["attempt"],
        "use": plan.outputs["use"],
        "use_digest": plan.outputs["use_digest"],
    }

    with dsl.If(plan.outputs["Output"] == "train"):
        data = pairs(**where, **listed, **code, **pairing, train=True)  # 5 s
        lmdb = pack_lmdb(  # 1 s
            catalog=data.outputs["catalog"], tsv=data.outputs["tsv"], **code
        ).outputs["lmdb"]
        trained = finetune(  # 3 min
            lmdb=lmdb,
            store=store,
            **weights,
            **code,
            context_length=context_length,
            scratch=scratch,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            warmup=warmup,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            precision=precision,
            resize=resize,
            augment=augment,
            seed=seed,
            save_seconds=save_seconds,
        )
        exported = export_onnx(  # 10 s
            catalog=data.outputs["catalog"],
            checkpoint=trained.outputs["checkpoint"],
            **where,
            **weights,
            **code,
            **proof,
        )
        verdict = evaluate(  # 10 s
            lmdb=lmdb,
            bundle=exported.outputs["bundle"],
            store=store,
            **pointer,
            **code,
            confidence=confidence,
            resamples=resamples,
        )
        vectors = features(  # 5 s
            catalog=data.outputs["catalog"],
            bundle=verdict.outputs["winner"],
            **where,
            **pointer,
            **code,
            embed_batch_size=embed_batch_size,
        ).outputs["vectors"]
        built = index(  # 1 s
            catalog=data.outputs["catalog"], vectors=vectors, **code, min_recall=min_recall
        ).outputs["segment"]
        promote(  # 5 s
            catalog=data.outputs["catalog"],
            bundle=verdict.outputs["winner"],
            segment=built,
            evaluation=verdict.outputs["report"],
            **where,
            **listed,
            **pointer,
            **ending,
        ).set_caching_options(False)

    with dsl.Elif(plan.outputs["Output"] == "refresh"):
        data = pairs(**where, **listed, **code, **pairing, train=False)
        exported = export_onnx(catalog=data.outputs["catalog"], **where, **weights, **code, **proof)
        vectors = features(
            catalog=data.outputs["catalog"],
            bundle=exported.outputs["bundle"],
            **where,
            **pointer,
            **code,
            embed_batch_size=embed_batch_size,
        ).outputs["vectors"]
        built = index(
            catalog=data.outputs["catalog"], vectors=vectors, **code, min_recall=min_recall
        ).outputs["segment"]
        promote(
            catalog=data.outputs["catalog"],
            bundle=exported.outputs["bundle"],
            segment=built,
            **where,
            **listed,
            **pointer,
            **ending,
        ).set_caching_options(False)


if __name__ == "__main__":
    import sys

    from kfp import compiler

    compiler.Compiler().compile(wentu, sys.argv[1] if len(sys.argv) > 1 else "pipeline.yaml")
