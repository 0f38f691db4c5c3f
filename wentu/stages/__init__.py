"""One module per stage of the pipeline; they meet only in files."""

STAGES = (
    "inventory",
    "pairs",
    "pack_lmdb",
    "finetune",
    "export_onnx",
    "evaluate",
    "features",
    "index",
    "promote",
)
"""In the order of the flow."""
