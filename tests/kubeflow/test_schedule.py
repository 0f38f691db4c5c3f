"""`wentu schedule`: five fields in, six out, and never two of a name that fire."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from tests.kubeflow.conftest import Said, parsed
from tests.kubeflow.server import Kubeflow
from wentu.errors import InputError
from wentu.orchestrate.schedule import firings, five_fields, six_fields, spelled

Wentu = Callable[..., Said]
NIGHTLY = ("schedule", "apply", "--cron", "0 2 * * *")


@pytest.mark.parametrize(
    ("five", "six"),
    [
        ("0 2 * * *", "0 0 2 * * *"),
        ("*/15 8-18 * * MON-FRI", "0 */15 8-18 * * MON-FRI"),
        ("30 4 1,15 JAN *", "0 30 4 1,15 JAN *"),
        ("0 2 * * 7", "0 0 2 * * 0"),
        ("0 2 * * 5-7", "0 0 2 * * 5,6,0"),
        ("0 2 * * 1-7/2", "0 0 2 * * 1,3,5,0"),
        ("0 2 * * 0,7", "0 0 2 * * 0"),
        ("0 2 * * */7", "0 0 2 * * */7"),
    ],
)
def test_five_fields_become_six(five: str, six: str) -> None:
    assert six_fields(five) == six
    assert six_fields(five_fields(six)) == six


@pytest.mark.parametrize(
    "cron",
    ["0 0 2 * * *", "0 2 * *", "@daily", "", "0 2 * * ?", "0 2 L * *", "0 2 * * 5#2", "0 2 ; * *"],
)
def test_what_is_not_five_fields_is_refused(cron: str) -> None:
    with pytest.raises(InputError, match="give five fields, minute hour day month weekday"):
        six_fields(cron)


@pytest.mark.parametrize("cron", ["0 25 * * *", "61 2 * * *", "0 2 30 2 *", "0 2 * * NIX"])
def test_times_that_never_come_are_refused(cron: str) -> None:
    with pytest.raises(InputError, match="--cron"):
        six_fields(cron)


def test_firings_are_in_the_zone_over_a_change_of_clocks() -> None:
    """In Berlin the clocks go back on the 25th of October 2026."""
    found = firings("30 1 * * *", "Europe/Berlin", 3, datetime(2026, 10, 24, 12, tzinfo=UTC))
    assert [spelled(each, "Europe/Berlin") for each in found] == [
        "2026-10-25 01:30 Europe/Berlin (UTC+02:00)",
        "2026-10-26 01:30 Europe/Berlin (UTC+01:00)",
        "2026-10-27 01:30 Europe/Berlin (UTC+01:00)",
    ]


def test_a_schedule_is_made_and_its_next_three_times_are_said(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...]
) -> None:
    words = (*places, "--host", kubeflow.url, "--zone", "Asia/Shanghai", "--min-new", "400")
    status, said = wentu(*NIGHTLY, *words)
    assert status == 0, said
    first, *times = said.splitlines()
    assert first == "wentu: created"
    assert len(times) == 3
    assert all("02:00 Asia/Shanghai (UTC+08:00)" in each for each in times)
    (made,) = kubeflow.schedules.values()
    assert made.trigger.cron_schedule.cron == "0 0 2 * * *"
    assert made.no_catchup is True
    assert made.max_concurrency == "1"
    assert made.mode == "ENABLE"
    assert made.runtime_config.parameters["inventory_options"] == '{"min_new": 400}'


def test_applied_twice_it_is_one_and_nothing_is_changed(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...]
) -> None:
    words = (*NIGHTLY, *places, "--host", kubeflow.url)
    wentu(*words)
    before, done = dict(kubeflow.schedules), len(kubeflow.log)
    assert wentu(*words)[1].startswith("wentu: as it was")
    assert kubeflow.schedules == before
    assert len(kubeflow.log) == done


@pytest.mark.parametrize(
    "changed",
    [("--cron", "0 3 * * *"), ("--zone", "Asia/Tokyo"), ("--epochs", "2"), ("--gpus", "1")],
)
def test_what_changes_is_made_anew_and_there_are_never_two_that_fire(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...], changed: tuple[str, str]
) -> None:
    words = (*NIGHTLY, *places, "--host", kubeflow.url)
    wentu(*words)
    (old,) = kubeflow.schedules
    assert wentu(*words, *changed)[1].startswith("wentu: replaced")
    (new,) = kubeflow.schedules
    assert new != old
    assert kubeflow.most_enabled == 1
    verbs = [line for line in kubeflow.log if "recurringruns" in line][-3:]
    assert [line.rpartition("/")[2] for line in verbs] == [
        f"{old}:disable",
        "recurringruns",
        old,
    ]


def test_where_the_new_one_cannot_be_made_the_old_one_goes_on(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...]
) -> None:
    words = (*NIGHTLY, *places, "--host", kubeflow.url)
    wentu(*words)
    kubeflow.refuse = {"POST /apis/v2beta1/recurringruns": 500}
    before = dict(kubeflow.schedules)
    assert wentu(*words, "--cron", "0 3 * * *")[0] == 7
    kubeflow.refuse = {}
    assert kubeflow.schedules == before
    assert next(iter(before.values())).mode == "ENABLE"


def test_several_of_a_name_become_one(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...]
) -> None:
    """Somebody else made a second one, by hand."""
    words = (*NIGHTLY, *places, "--host", kubeflow.url)
    wentu(*words)
    (first,) = kubeflow.schedules.values()
    kubeflow.schedules["second"] = type(first)(**{**first.to_dict(), "recurring_run_id": "second"})
    kubeflow.schedules["second"].trigger = first.trigger
    kubeflow.schedules["second"].runtime_config = first.runtime_config
    kubeflow.schedules["second"].pipeline_version_reference = first.pipeline_version_reference
    assert wentu(*words)[1].startswith("wentu: as it was")
    (left,) = kubeflow.schedules.values()
    assert left.mode == "ENABLE"


def test_pause_resume_list_and_remove(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...]
) -> None:
    host = ("--host", kubeflow.url)
    for name in ("night", "noon"):
        wentu(*NIGHTLY, "--schedule", name, *places, *host)
    assert wentu("schedule", "pause", "--schedule", "night", *host) == (0, "night: paused\n")
    listed = parsed(wentu("schedule", "list", "--json", *host))
    assert [(each["name"], each["enabled"], len(each["next"])) for each in listed] == [
        ("night", False, 0),
        ("noon", True, 3),
    ]
    assert listed[0]["cron"] == "0 2 * * *"
    shown = wentu("schedule", "list", *host)[1]
    assert "paused" in shown
    assert "02:00 UTC (UTC+00:00)" in shown
    status, said = wentu("schedule", "resume", "--schedule", "night", *host)
    assert (status, len(said.splitlines())) == (0, 4)
    assert wentu("schedule", "remove", "--schedule", "night", *host)[0] == 0
    assert [each.display_name for each in kubeflow.schedules.values()] == ["noon"]
    status, said = wentu("schedule", "pause", "--schedule", "night", *host)
    assert (status, said) == (2, "there is no schedule night; known: noon.")


def test_wrong_times_and_zones_are_refused_before_anything_is_sent(
    wentu: Wentu, kubeflow: Kubeflow, places: tuple[str, ...]
) -> None:
    host = ("--host", kubeflow.url)
    for words in (("--cron", "0 0 2 * * *"), ("--cron", "0 2 * * *", "--zone", "Mars/Base")):
        assert wentu("schedule", "apply", *words, *places, *host)[0] == 2
    assert kubeflow.log == []
