"""Coming from Chinese-CLIP, and going back: its files in, its files out.

    jsonl.py      features, line by line; files that appear whole or not at all
    sources.py    TSV + JSONL and LMDB, as the user names them
    unpack.py     those -> picture files and captions
    models.py     ONNX files of pytorch_to_onnx.py -> a bundle
    enter.py      its features and pictures -> a catalog and vectors that can be released
    leave.py      a release -> features, predictions and evaluation in its formats

Nothing is re-encoded on the way: a picture keeps its bytes, a feature its numbers.
"""
