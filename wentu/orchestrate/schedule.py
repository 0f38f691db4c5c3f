"""Schedules on a cluster: one by name, changed by making it anew, since KFP cannot change one.

KFP's cron has six fields, seconds first; five are accepted and misread as six. So five are taken,
six are sent. They mean the time of the zone that KFP's scheduler was given (CRON_SCHEDULE_TIMEZONE
of ml-pipeline-scheduledworkflow, UTC unless somebody set it): no API tells which, so it is an
option here, and the next firings are shown in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from wentu.errors import InputError

if TYPE_CHECKING:
    from wentu.orchestrate.kubeflow import PipelinesServer, Submission

_VALUE = r"(\d+|[A-Za-z]{3})"
_PART = rf"(\*|{_VALUE}(-{_VALUE})?)(/\d+)?"
_FIELD = re.compile(rf"{_PART}(,{_PART})*")
_NOTE = re.compile(r"zone=(\S+)")
DAYS = 7


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A schedule as it stands on the server."""

    id: str
    name: str
    cron: str
    """Five fields; what is not ours is shown as it is."""
    zone: str
    enabled: bool
    parameters: dict[str, Any]
    version: str

    def next(self, count: int = 3) -> list[datetime]:
        """Its next firings; none while it is paused."""
        return firings(self.cron, self.zone, count) if self.enabled else []


# --- cron -------------------------------------------------------------------------------------


def six_fields(cron: str) -> str:
    """KFP's spelling of a five-field cron: seconds first, and Sunday 0 as its parser wants it."""
    parts = cron.split()
    if len(parts) != 5 or not all(_FIELD.fullmatch(part) for part in parts):
        raise InputError(
            f'--cron "{cron}": give five fields, minute hour day month weekday, such as '
            '"0 2 * * *" for each night at two.',
            f'--cron "{cron}"：应为五个字段(分 时 日 月 周)，例如每天凌晨两点 "0 2 * * *"。',
        )
    from croniter import croniter

    try:
        croniter(cron).get_next()  # a 30th of February is found out here
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f'--cron "{cron}": {error}.', f'--cron "{cron}"：{error}。') from None
    return " ".join(["0", *parts[:4], _weekdays(parts[4])])


def five_fields(cron: str) -> str:
    """What ``six_fields`` was given, as far as it can be told."""
    parts = cron.split()
    return " ".join(parts[1:]) if len(parts) == 6 and parts[0] == "0" else cron


def _weekdays(field: str) -> str:
    """Cron's 7 is Sunday as 0 is; the parser of KFP's server knows 0 to 6 only."""
    if "7" not in field.replace("/7", ""):
        return field
    days: list[str] = []
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            days.append(part)
            continue
        every = range(int(first), int(last or first) + 1, int(step or 1))
        days += [str(day % DAYS) for day in every]
    return ",".join(dict.fromkeys(days))


def firings(cron: str, zone: str, count: int = 3, after: datetime | None = None) -> list[datetime]:
    """The next times that a five-field cron fires, in the zone."""
    from croniter import croniter

    found = croniter(cron, (after or datetime.now(UTC)).astimezone(zone_of(zone)))
    return [found.get_next(datetime) for _ in range(count)]


def zone_of(name: str) -> ZoneInfo:
    """A time zone by its name; InputError where there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(
            f"--zone {name}: no such time zone; give one such as UTC or Asia/Shanghai.",
            f"--zone {name}：没有该时区；例如 UTC 或 Asia/Shanghai。",
        ) from None


# --- on the server ----------------------------------------------------------------------------


def listed(server: PipelinesServer) -> list[Schedule]:
    """Every schedule of ours, by name."""
    return sorted(map(_read, server.schedules()), key=lambda each: (each.name, each.id))


def find(server: PipelinesServer, name: str) -> list[Schedule]:
    """The schedules of a name, of which there should be one; InputError where there is none."""
    known = listed(server)
    found = [each for each in known if each.name == name]
    if not found:
        names = ", ".join(dict.fromkeys(each.name for each in known)) or "-"
        raise InputError(
            f"there is no schedule {name}; known: {names}.",
            f"没有名为 {name} 的定时任务；已有：{names}。",
        )
    return found


def apply(server: PipelinesServer, submission: Submission, name: str, cron: str, zone: str) -> str:
    """Make the schedule of this name what is said; returns unchanged, created or replaced.

    The old one is paused before the new one is made and deleted after, so that there are never
    two that fire; where the new one cannot be made, the old one goes on.
    """
    zone_of(zone)
    sent = six_fields(cron)
    reference = server.upload(submission)
    before = [each for each in listed(server) if each.name == name]
    wanted = (sent, zone, reference[1], dict(submission.parameters))
    same = [each for each in before if each.enabled and _content(each) == wanted]
    for each in before:
        if each.enabled and each not in same[:1]:
            server.set_enabled(each.id, False)
    if not same:
        description = f"wentu zone={zone}"
        try:
            server.schedule(submission, name, sent, description, reference)
        except BaseException:
            for each in before:
                if each.enabled:
                    server.set_enabled(each.id, True)
            raise
    for each in before:
        if each not in same[:1]:
            server.delete_schedule(each.id)
    return "unchanged" if same else "replaced" if before else "created"


def pause(server: PipelinesServer, name: str) -> None:
    """Let it not fire until it is resumed."""
    for each in find(server, name):
        server.set_enabled(each.id, False)


def resume(server: PipelinesServer, name: str) -> Schedule:
    """Let it fire again; firings in between are not made up for."""
    first, *more = find(server, name)
    for each in more:
        server.delete_schedule(each.id)
    server.set_enabled(first.id, True)
    return first


def remove(server: PipelinesServer, name: str) -> None:
    """Remove it; runs that it started stay."""
    for each in find(server, name):
        server.set_enabled(each.id, False)
        server.delete_schedule(each.id)


def _content(schedule: Schedule) -> tuple[str, str, str, dict[str, Any]]:
    return f"0 {schedule.cron}", schedule.zone, schedule.version, schedule.parameters


def _read(given: Any) -> Schedule:
    zone = _NOTE.search(given.description or "")
    cron = given.trigger.cron_schedule.cron if given.trigger and given.trigger.cron_schedule else ""
    config, version = given.runtime_config, given.pipeline_version_reference
    return Schedule(
        id=str(given.recurring_run_id),
        name=str(given.display_name),
        cron=five_fields(cron),
        zone=zone[1] if zone else "UTC",
        enabled=str(given.mode) == "ENABLE" or str(given.status) == "ENABLED",
        parameters=dict(config.parameters or {}) if config else {},
        version=str(version.pipeline_version_id) if version else "",
    )


def times(schedule: Schedule, count: int = 3) -> Iterator[str]:
    """The next firings as texts: 2026-11-28 02:00 (Asia/Shanghai, UTC+08:00)."""
    for moment in schedule.next(count):
        yield spelled(moment, schedule.zone)


def spelled(moment: datetime, zone: str) -> str:
    """A time with its zone, in a way that cannot be misread."""
    return f"{moment:%Y-%m-%d %H:%M} {zone} (UTC{moment.isoformat()[-6:]})"
