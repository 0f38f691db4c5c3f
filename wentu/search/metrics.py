"""Counters and durations of the service in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds."""

Labels = tuple[tuple[str, str], ...]


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

    def text(self, gauges: Iterable[tuple[str, str, str, Mapping[str, str], float]]) -> str:
        """The page; ``gauges`` are (name, type, help, labels, value) known elsewhere."""
        with self._lock:
            requests = dict(self._requests)
            seconds = {route: list(row) for route, row in self._seconds.items()}
        lines = head("wentu_requests_total", "counter", "Requests answered.")
        lines += [
            line("wentu_requests_total", dict(labels), count)
            for labels, count in sorted(requests.items())
        ]
        lines += head("wentu_request_seconds", "histogram", "Seconds until the answer was sent.")
        for route, row in sorted(seconds.items()):
            for bound, value in zip((*BUCKETS, "+Inf"), row, strict=False):
                labels_of = {"route": route, "le": str(bound)}
                lines.append(line("wentu_request_seconds_bucket", labels_of, value))
            lines.append(line("wentu_request_seconds_sum", {"route": route}, row[-1]))
            lines.append(line("wentu_request_seconds_count", {"route": route}, row[-2]))
        lines += head("wentu_requests_in_flight", "gauge", "Requests being answered now.")
        lines.append(line("wentu_requests_in_flight", {}, self.in_flight))
        for name, kind, about, given, value in gauges:
            lines += head(name, kind, about)
            lines.append(line(name, given, value))
        return "\n".join(lines) + "\n"


def head(name: str, kind: str, about: str) -> list[str]:
    """The comment lines before a metric."""
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]


def line(name: str, labels: Mapping[str, str], value: float) -> str:
    """One sample."""
    inside = ",".join(f'{key}="{escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value:.17g}" if inside else f"{name} {value:.17g}"


def escaped(text: str) -> str:
    """A label's value, as the format wants it."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
