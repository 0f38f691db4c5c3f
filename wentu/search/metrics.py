"""Counters and durations of the service in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds."""

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One figure."""

    family: str
    """The metric that it belongs to."""
    kind: str
    """counter, gauge or histogram."""
    about: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    suffix: str = ""
    """Of the name, of the parts of a histogram."""

    @property
    def key(self) -> tuple[str, Labels]:
        """What is the same figure."""
        return self.family + self.suffix, tuple(self.labels.items())

    @property
    def adds_up(self) -> bool:
        """Do the figures of several processes make one?"""
        return self.kind != "gauge"

    def plus(self, value: float) -> Sample:
        """The same, with more."""
        return replace(self, value=self.value + value)

    def of(self, worker: int) -> Sample:
        """The same, of one of several workers."""
        return replace(self, labels={**self.labels, "worker": str(worker)})


def gauge(name: str, about: str, value: float, **labels: str) -> Sample:
    """A figure that goes up and down."""
    return Sample(family=name, kind="gauge", about=about, value=value, labels=labels)


def counter(name: str, about: str, value: float, **labels: str) -> Sample:
    """A figure that only goes up."""
    return Sample(family=name, kind="counter", about=about, value=value, labels=labels)


class Metrics:
    """What was asked for, how it ended and how long it took, by route: never by who or what."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[Labels, int] = defaultdict(int)
        self._seconds: dict[str, list[float]] = {}
        self.in_flight = 0

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """One request that was answered."""
        labels = (("route", route), ("method", method), ("status", str(status)))
        with self._lock:
            self._requests[labels] += 1
            row = self._seconds.setdefault(route, [0.0] * (len(BUCKETS) + 2))
            for number, bound in enumerate(BUCKETS):
                row[number] += seconds <= bound
            row[-2] += 1
            row[-1] += seconds

    def samples(self) -> Iterator[Sample]:
        """All of it."""
        with self._lock:
            requests = dict(self._requests)
            seconds = {route: list(row) for route, row in self._seconds.items()}
        for labels, count in sorted(requests.items()):
            yield counter("wentu_requests_total", "Requests answered.", count, **dict(labels))
        empty = Sample(
            family="wentu_request_seconds",
            kind="histogram",
            about="Seconds until the answer was sent.",
            value=0.0,
        )
        for route, row in sorted(seconds.items()):
            for bound, value in zip((*BUCKETS, "+Inf"), row, strict=False):
                labels_of = {"route": route, "le": str(bound)}
                yield replace(empty, suffix="_bucket", labels=labels_of, value=value)
            yield replace(empty, suffix="_sum", labels={"route": route}, value=row[-1])
            yield replace(empty, suffix="_count", labels={"route": route}, value=row[-2])
        yield gauge("wentu_requests_in_flight", "Requests being answered now.", self.in_flight)


def page(samples: Iterable[Sample]) -> str:
    """Figures as Prometheus reads them: those of a metric together."""
    families: dict[str, list[Sample]] = {}
    for each in samples:
        families.setdefault(each.family, []).append(each)
    lines = []
    for name, rows in families.items():
        lines += [f"# HELP {name} {rows[0].about}", f"# TYPE {name} {rows[0].kind}"]
        lines += [line(name + each.suffix, each.labels, each.value) for each in rows]
    return "\n".join(lines) + "\n"


def line(name: str, labels: Mapping[str, str], value: float) -> str:
    """One sample."""
    inside = ",".join(f'{key}="{escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value:.17g}" if inside else f"{name} {value:.17g}"


def escaped(text: str) -> str:
    """A label's value, as the format wants it."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
