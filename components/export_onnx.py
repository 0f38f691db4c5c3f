from typing import Optional

from kfp import dsl

from components._images import LIGHT


@dsl.component(**LIGHT)
def export_onnx(
    catalog: dsl.Input[dsl.Dataset], pictures: str, store: str, model: str, model_digest: str,
    code_version: str, options: str, bundle: dsl.Output[dsl.Model],
    checkpoint: Optional[dsl.Input[dsl.Model]] = None,
):
    """A checkpoint into the ONNX bundle that is served; a ready bundle is passed on."""
    from pathlib import Path

    from wentu.stages.export_onnx import Config, export_onnx as stage

    stage(
        catalog=Path(catalog.path), pictures=pictures, store=store, model=model,
        checkpoint=Path(checkpoint.path) if checkpoint else None, out=Path(bundle.path),
        config=Config.parse(options),
    )
