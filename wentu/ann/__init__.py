"""Indexes over vectors: which kind, building, reading, and searching several as one.

Up to ``files.EXACT_UP_TO`` vectors an index is exact. Above it vectors are compared as codes of
two bits a number, and the best candidates again with the vectors themselves, which stay in their
file and are mapped (compressed.py). How many candidates that takes is found when the index is built
(tuning.py), and what it finds is measured against brute force.

Vectors are L2-normalised float32, so inner product is cosine similarity.
"""

from wentu.ann.arrays import Ids, Vectors, best_rows, score_rows
from wentu.ann.compressed import Compressed, Effort
from wentu.ann.files import (
    COMPRESSED,
    EXACT,
    INDEX,
    SETTINGS,
    Quality,
    build,
    make,
    open_index,
    quality_of,
    read_index,
    write_index,
)
from wentu.ann.parts import Part, search
from wentu.ann.tuning import exact_recall, gpu_count, on_gpus

__all__ = [
    "COMPRESSED",
    "EXACT",
    "INDEX",
    "SETTINGS",
    "Compressed",
    "Effort",
    "Ids",
    "Part",
    "Quality",
    "Vectors",
    "best_rows",
    "build",
    "exact_recall",
    "gpu_count",
    "make",
    "on_gpus",
    "open_index",
    "quality_of",
    "read_index",
    "score_rows",
    "search",
    "write_index",
]
