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
    inventory_options: str = "{}",
    pairs_options: str = "{}",
    finetune_options: str = "{}",
    export_onnx_options: str = "{}",
    evaluate_options: str = "{}",
    features_options: str = "{}",
    index_options: str = "{}",
    promote_options: str = "{}",
):
    """Options are JSON objects of what differs from a stage's defaults: {"epochs": 3}."""
    where = {"pictures": pictures, "store": store}
    code = {"code_version": code_version}
    plan = inventory(
        **where,
        captions=captions,
        model=model,
        options=inventory_options,
        pairs_options=pairs_options,
        finetune_options=finetune_options,
        features_options=features_options,
    ).set_caching_options(False)
    listed = {"inventory": plan.outputs["inventory"]}
    pointer = {"pointer": plan.outputs["pointer"]}
    use, use_digest = plan.outputs["use"], plan.outputs["use_digest"]
    weights = {"model": use, "model_digest": use_digest}
    pairing = {**where, **listed, **code, "captions": captions, "options": pairs_options}
    pairing |= {"shards": plan.outputs["shards"]}
    embedding = {**where, **pointer, **code, "options": features_options}
    ending = {**where, **listed, **pointer, "captions": captions, "use": use}
    ending |= {"use_digest": use_digest, "attempt": plan.outputs["attempt"]}
    ending |= {"options": promote_options}

    with dsl.If(plan.outputs["Output"] == "train"):
        data = pairs(**pairing, train=True)  # 5 s
        catalog = data.outputs["catalog"]
        packed = pack_lmdb(catalog=catalog, tsv=data.outputs["tsv"], **code)  # 1 s
        lmdb = packed.outputs["lmdb"]
        trained = finetune(  # 3 min
            lmdb=lmdb, store=store, options=finetune_options, **weights, **code
        )
        exported = export_onnx(  # 10 s
            catalog=catalog,
            checkpoint=trained.outputs["checkpoint"],
            options=export_onnx_options,
            **where,
            **weights,
            **code,
        )
        verdict = evaluate(  # 10 s
            lmdb=lmdb,
            bundle=exported.outputs["bundle"],
            store=store,
            options=evaluate_options,
            **pointer,
            **code,
        )
        winner = verdict.outputs["winner"]
        with dsl.ParallelFor(data.outputs["Output"]) as shard:
            embedded = features(shard=shard, catalog=catalog, bundle=winner, **embedding)  # 5 s
        vectors = dsl.Collected(embedded.outputs["vectors"])
        built = index(catalog=catalog, vectors=vectors, options=index_options, **code)  # 1 s
        promote(  # 5 s
            catalog=catalog,
            bundle=winner,
            segment=built.outputs["segment"],
            evaluation=verdict.outputs["report"],
            **ending,
        ).set_caching_options(False)

    with dsl.Elif(plan.outputs["Output"] == "refresh"):
        data = pairs(**pairing, train=False)
        catalog = data.outputs["catalog"]
        exported = export_onnx(
            catalog=catalog, options=export_onnx_options, **where, **weights, **code
        )
        bundle = exported.outputs["bundle"]
        with dsl.ParallelFor(data.outputs["Output"]) as shard:
            embedded = features(shard=shard, catalog=catalog, bundle=bundle, **embedding)
        vectors = dsl.Collected(embedded.outputs["vectors"])
        built = index(catalog=catalog, vectors=vectors, options=index_options, **code)
        promote(
            catalog=catalog, bundle=bundle, segment=built.outputs["segment"], **ending
        ).set_caching_options(False)


if __name__ == "__main__":
    import sys

    from kfp import compiler

    compiler.Compiler().compile(wentu, sys.argv[1] if len(sys.argv) > 1 else "pipeline.yaml")
