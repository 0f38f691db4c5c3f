"""Of nearly the same pictures one is shown: copies that were resized or encoded anew.

Which are the same says the catalog's group, made by a perceptual hash when the pictures were read
(``wentu.pictures.near_duplicate``), not the vectors: to a model, two photos of one dog may be as
near as two sizes of one photo. The one that is shown is the largest that passes the filters, then
that of the lowest id; it does not depend on the query, so it is the same on every page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wentu.search.filters import Mask
from wentu.search.segment import Rows, Segment

_KIND = np.dtype(
    [("group", "<i8"), ("pixels", "<i8"), ("id", "<i8"), ("part", "<i8"), ("row", "<i8")]
)


@dataclass(frozen=True, kw_only=True)
class Folded:
    """Which of the pictures stand for others."""

    group: Rows
    id: Rows
    """[M] those of several, by group, the one that is shown first."""
    hidden: Rows
    """[H] ids of the others, sorted."""

    def behind(self, picture: int) -> tuple[int, ...]:
        """Those that a picture which is shown stands for."""
        at = np.flatnonzero(self.id == picture)
        if not len(at) or np.isin(picture, self.hidden):
            return ()
        others = self.id[self.group == self.group[at[0]]]
        return tuple(others[others != picture].tolist())


class Copies:
    """The pictures of a release that are nearly the same as another one."""

    def __init__(self, segments: Sequence[Segment], alive: Sequence[Mask]) -> None:
        """alive: of each segment [N], which rows count."""
        named = [_named_otherwise(segment) for segment in segments]
        leaders = np.unique(np.concatenate([np.empty(0, np.int64), *(n["group"] for n in named)]))
        parts = []
        for number, (segment, own, counts) in enumerate(zip(segments, named, alive, strict=True)):
            own["part"], own["row"] = number, segment.rows_of(own["id"])
            ids = np.setdiff1d(leaders, own["id"])
            rows = segment.rows_of(ids)
            first = np.zeros(len(rows), _KIND)
            first["group"] = first["id"] = segment.ids[rows]
            first["part"], first["row"] = number, rows
            first["pixels"] = _pixels(segment, first["id"])
            both = np.concatenate([own, first])
            parts.append(both[counts[both["row"]]])
        found = np.concatenate([np.empty(0, _KIND), *parts])
        order = np.lexsort((found["id"], -found["pixels"], found["group"]))
        self._members = found[order]

    def fold(self, passing: Sequence[Mask] | None = None, without: int | None = None) -> Folded:
        """Which are shown of those that pass a filter.

        Args:
            passing: of each segment [N]; None: all. without: a picture that is not to be shown.
        """
        members = self._members
        keep = np.ones(len(members), bool) if without is None else members["id"] != without
        for number, mask in enumerate(passing or ()):
            mine = members["part"] == number
            keep[mine] &= mask[members["row"][mine]]
        members = members[keep]
        group = members["group"]
        first = np.ones(len(group), bool)
        first[1:] = group[1:] != group[:-1]
        return Folded(group=group, id=members["id"], hidden=np.sort(members["id"][~first]))


def _named_otherwise(segment: Segment) -> npt.NDArray[np.void]:
    """Pictures whose group is named by another one; few, where a group is one picture mostly."""
    query = "SELECT grp, width * height, id, 0, 0 FROM pictures WHERE grp <> id"
    with segment.catalog.borrow() as db:
        return np.array(db.execute(query).fetchall(), _KIND)


def _pixels(segment: Segment, ids: Rows) -> list[int]:
    query = "SELECT width * height FROM pictures WHERE id = ?"
    with segment.catalog.borrow() as db:
        return [db.execute(query, (each,)).fetchone()[0] for each in ids.tolist()]
