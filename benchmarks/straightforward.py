"""The search service that one writes in an hour: ``python -m benchmarks.straightforward``.

cn_clip's model in torch (texts padded to 52 tokens, as ``clip.tokenize`` does), an exact FAISS
index in memory, FastAPI, one request at a time, nothing remembered. It reads the same release.
"""

from __future__ import annotations

import argparse
import io
import sqlite3
import threading
from typing import Any

import numpy as np

from benchmarks.data import Vectors, unit
from wentu.formats import CATALOG
from wentu.store import Store


class Service:
    """Everything opened at the start."""

    def __init__(self, place: str, checkpoint: str, vision: str, text: str, side: int) -> None:
        import cn_clip.clip as clip
        import faiss

        self.clip = clip
        self.model, self.preprocess = clip.load_from_name(
            checkpoint,
            device="cpu",
            vision_model_name=vision,
            text_model_name=text,
            input_resolution=side,
        )
        self.model.eval()
        store = Store(place)
        current = store.current()
        assert current is not None, "the store has a release"
        folder = store.segment(current[1].segments[0].digest)
        vectors = np.load(folder / "vectors.npy")
        self.index = faiss.IndexFlatIP(vectors.shape[1])
        self.index.add(vectors)
        self.ids = np.load(folder / "ids.npy")
        self.catalog = sqlite3.connect(folder / CATALOG, check_same_thread=False)
        self.one = threading.Lock()

    def text(self, text: str) -> Vectors:
        """[1, D] of a text."""
        import torch

        with torch.no_grad():
            return unit(self.model.encode_text(self.clip.tokenize([text])).numpy())

    def picture(self, data: bytes) -> Vectors:
        """[1, D] of a picture."""
        import torch
        from PIL import Image

        with torch.no_grad(), Image.open(io.BytesIO(data)) as picture:
            return unit(self.model.encode_image(self.preprocess(picture)[None]).numpy())

    def nearest(self, vector: Vectors, k: int) -> dict[str, Any]:
        """The hits as JSON values."""
        scores, rows = self.index.search(vector, k)
        hits = []
        for score, row in zip(scores[0], rows[0], strict=True):
            number = int(self.ids[row])
            query = "SELECT path FROM paths WHERE picture = ?"
            paths = [path for (path,) in self.catalog.execute(query, (number,))]
            hits.append({"id": str(number), "score": float(score), "paths": paths})
        return {"hits": hits}


def main() -> None:
    """Serve until killed."""
    import uvicorn
    from fastapi import FastAPI, Request

    parser = argparse.ArgumentParser(prog="python -m benchmarks.straightforward")
    for name in ("store", "checkpoint", "vision", "text"):
        parser.add_argument(name)
    parser.add_argument("side", type=int)
    parser.add_argument("port", type=int)
    given = parser.parse_args()
    service = Service(given.store, given.checkpoint, given.vision, given.text, given.side)
    app = FastAPI()

    # The annotations of these two are FastAPI's to read, and Request is known only in here.
    def search(q: str, k: int = 10) -> dict[str, Any]:
        with service.one:
            return service.nearest(service.text(q), k)

    async def search_picture(request: Any, k: int = 10) -> dict[str, Any]:
        data = await request.body()
        with service.one:
            return service.nearest(service.picture(data), k)

    search_picture.__annotations__["request"] = Request
    app.get("/api/v1/search")(search)
    app.post("/api/v1/search/picture")(search_picture)
    uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="error", access_log=False)


if __name__ == "__main__":
    main()
