"""What is asked and answered over HTTP. Ids are decimal texts: JavaScript rounds above 2^53."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from wentu.search.query import DEEPEST

MOST_HITS = 200
LONGEST_SIDE = 1_000_000
MOST_LABELS = 100

Identity = Annotated[
    str, StringConstraints(pattern=r"^[0-9]{1,19}$"), Field(examples=["1234567890123456789"])
]
Text = Annotated[str, StringConstraints(max_length=2000)]
Folder = Annotated[str, StringConstraints(max_length=2000)]
Name = Annotated[str, StringConstraints(max_length=200)]
Day = Annotated[
    str,
    StringConstraints(pattern=r"^([0-9]{4}(-[0-9]{2}(-[0-9]{2})?)?)?$"),
    Field(examples=["2024-05"]),
]
After = Annotated[str, StringConstraints(max_length=1000, pattern=r"^[A-Za-z0-9_=-]*$")]
Side = Annotated[int, Field(ge=0, le=LONGEST_SIDE)]
Weight = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=MOST_HITS)]
Offset = Annotated[int, Field(ge=0, le=DEEPEST)]


class Weights(BaseModel):
    """How much each part of a query counts."""

    model_config = ConfigDict(extra="forbid")

    text: Weight = 1.0
    id: Weight = 1.0
    negative: Weight = 0.5


class FiltersBody(BaseModel):
    """Which pictures are compared; a picture has to pass all that is given."""

    model_config = ConfigDict(extra="forbid")

    folder: Folder = ""
    """Below this folder of the collection."""
    name: Name = ""
    """In the file's name, whatever the case; with * or ? the whole name has to fit it."""
    taken_from: Day = ""
    taken_to: Day = ""
    added_from: Day = ""
    added_to: Day = ""
    captioned: bool | None = None
    min_side: Side = 0
    """Pixels that both sides have at least."""
    max_side: Side = 0
    """Pixels that both sides have at most; 0: any."""


class SearchBody(BaseModel):
    """A query: a text, a picture of the collection by its id, or both; minus texts."""

    model_config = ConfigDict(extra="forbid")

    text: Text = ""
    id: Identity | None = None
    negative: Annotated[list[Text], Field(max_length=16)] = []
    weights: Weights = Weights()
    filters: FiltersBody = FiltersBody()
    raw: bool = False
    """Take the text as it stands: no -exclusion, no quotes, no conversion to simplified."""
    fold: bool = True
    """Show one of nearly the same pictures."""
    all: bool = False
    """Show also what lies below the threshold."""
    k: Count = 20
    offset: Offset = 0
    after: After = ""
    """What the page before was answered with."""


class PictureFields(BaseModel):
    """What is known of every picture."""

    id: Identity
    paths: list[str]
    captions: list[str]
    own_id: str
    width: int
    height: int
    """Pixels of the original, upright."""
    taken: str | None
    """When, as the camera says, in ISO 8601 without a zone."""
    added: str | None
    """When it came into the collection, UTC, in ISO 8601."""


class HitOut(PictureFields):
    """A picture that was found."""

    score: float
    """Cosine with the query, -1 to 1."""
    confidence: float | None
    """0 to 1: how likely a picture of that score fits the text; null without calibration."""
    similar: list[Identity]
    """Nearly the same pictures that this one stands for."""


class Understood(BaseModel):
    """What was made of the text."""

    text: str
    negative: list[str]


class SearchOut(BaseModel):
    """A page of results, best first."""

    release: str
    total: int
    """Pictures that were compared."""
    offset: int
    """How many come before these."""
    hits: list[HitOut]
    threshold: float | None
    """The confidence below which pictures are not shown; null: all are."""
    withheld: int
    """Hits of this page that are not shown because they lie below it; ``all`` shows them."""
    after: str | None
    """For the next page; null: there is none."""
    model: str
    understood: Understood


class PictureOut(PictureFields):
    """What is known of a picture."""

    bytes: int
    """Size of the original file."""


class FolderOut(BaseModel):
    """A folder of the collection."""

    folder: str
    pictures: int
    """Below it, at any depth."""


class FoldersOut(BaseModel):
    """Folders of the first two levels, by name; the largest 500."""

    release: str
    folders: list[FolderOut]


class CalibrationOut(BaseModel):
    """How well what is not there is told from what is, in this release; shares are 0 to 1."""

    basis: str
    """captions: measured on held-out captions; background: on texts that no picture shows alone."""
    threshold: float
    """The confidence below which pictures are not shown."""
    lost: float | None
    """Of the held-out captions, how many are answered with nothing; null without any."""
    false_accepts: float
    """Of the background texts, how many are answered."""
    queries: int
    """Held-out captions."""
    background: int
    """Background texts."""
    gallery: int
    """Pictures that it was measured over."""


class IndexOut(BaseModel):
    """How vectors are compared."""

    kind: str
    recall_at_10: float | None
    """Share of the true ten nearest that it finds; null where it was not recorded."""


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
    calibration: CalibrationOut | None
    """null: nothing is withheld."""
    index: IndexOut
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
