"""What is asked and answered over HTTP. Ids are decimal texts: JavaScript rounds above 2^53."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MOST_HITS, DEEPEST = 200, 10_000
MOST_LABELS = 100

Identity = Annotated[
    str, StringConstraints(pattern=r"^[0-9]{1,19}$"), Field(examples=["1234567890123456789"])
]
Text = Annotated[str, StringConstraints(max_length=2000)]
Folder = Annotated[str, StringConstraints(max_length=2000)]
Weight = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=MOST_HITS)]
Offset = Annotated[int, Field(ge=0, le=DEEPEST)]


class Weights(BaseModel):
    """How much each part of a query counts."""

    model_config = ConfigDict(extra="forbid")

    text: Weight = 1.0
    picture: Weight = 1.0
    id: Weight = 1.0
    negative: Weight = 0.5


class SearchBody(BaseModel):
    """A query: a text, a picture of the collection by its id, or both; minus texts."""

    model_config = ConfigDict(extra="forbid")

    text: Text = ""
    id: Identity | None = None
    negative: Annotated[list[Text], Field(max_length=16)] = []
    weights: Weights = Weights()
    folder: Folder = ""
    k: Count = 20
    offset: Offset = 0


class HitOut(BaseModel):
    """A picture that was found."""

    id: Identity
    score: float
    """Cosine with the query, -1 to 1."""
    paths: list[str]
    captions: list[str]
    own_id: str


class SearchOut(BaseModel):
    """A page of results, best first."""

    release: str
    total: int
    """Pictures that were compared."""
    offset: int
    hits: list[HitOut]


class PictureOut(BaseModel):
    """What is known of a picture."""

    id: Identity
    paths: list[str]
    captions: list[str]
    own_id: str


class CaptionOut(BaseModel):
    """A caption that fits a picture."""

    text: str
    score: float
    path: str


class CaptionsOut(BaseModel):
    """Captions, best first."""

    release: str
    captions: list[CaptionOut]


class LabelOut(BaseModel):
    """A label and how likely it is, 0 to 1."""

    label: str
    probability: float


class LabelsOut(BaseModel):
    """Labels, likeliest first; the probabilities add up to 1."""

    release: str
    labels: list[LabelOut]


class SegmentOut(BaseModel):
    """A part of the index."""

    digest: str
    tombstones: int


class LibraryOut(BaseModel):
    """How a folder that is followed stands."""

    state: str
    """indexing, following, away (the folder is out of reach), failing or stopped."""
    indexed: int
    """Pictures that can be found."""
    waiting: int
    """Files that were found and not read yet."""
    damaged: int
    """Files that are no readable pictures."""
    problem: str
    """What is wrong, in one sentence; empty where all is well."""


class ReleaseOut(BaseModel):
    """What is searched."""

    release: str
    pointer: int
    reason: str
    """train, refresh, rollback, unpin or gc."""
    published: str
    pinned: bool
    pictures: int
    dimension: int
    model: str
    segments: list[SegmentOut]
    metrics: dict[str, float]
    """Recall of the model on its test split, 0 to 1."""
    verified: bool
    """Were all files held against their digests?"""
    originals: bool
    """Can the pictures' own files be had here?"""
    problem: str
    """Why what the store points at is not what is served; empty where it is."""
    library: LibraryOut | None = None
    """Where a folder is followed (`wentu serve --library`)."""


class ErrorOut(BaseModel):
    """What is wrong, in one sentence."""

    error: str
