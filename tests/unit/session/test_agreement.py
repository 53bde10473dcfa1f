"""Tests of the agreement: how the two Hellos of a session are compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.memory.sessions import ALICE, BOB, joined, run, small

from psicli.core.peer_errors import DisagreementError, OtherJobError, PeerProtocolError
from psicli.protocol.bins import LEAST_BIN_ITEMS, MOST_BIN_ITEMS
from psicli.protocol.messages import Hello, Purpose, TaskTerms
from psicli.protocol.streams import LEAST_FRAME_ITEMS
from psicli.protocol.wire import decode_hello
from psicli.session.agreement import Group, agree, differing_versions

TERMS = (TaskTerms("people", ALICE, False, 1), TaskTerms("places", BOB, True, 2))
OURS = Hello("0.1", ALICE, "overlap", TERMS, LEAST_FRAME_ITEMS, 4 * LEAST_BIN_ITEMS, bytes(32), Purpose.RUN)
THEIRS = replace(OURS, party=BOB, nonce=bytes([1]) * 32)


def with_task(**changes: Any) -> tuple[TaskTerms, ...]:
    return (TERMS[0], replace(TERMS[1], **changes))


FORMS = {
    "key_form": ("email/sha256", "text"),
    "forms_version": 1,
    "forms_probe": bytes(16),
    "unicode_version": "15.0.0",
    "phone_version": "9.0.1",
}
DIFFERENCES: list[tuple[dict[str, Any], str]] = [
    ({"party": "carol"}, "party of bob bob carol"),
    ({"protocol_version": 3}, "protocol_version 2 3"),
    ({"suite": "psicli-v2"}, "suite psicli-v1 psicli-v2"),
    ({"job": "other"}, "job overlap other"),
    ({"tasks": TERMS[:1]}, "tasks people, places people"),
    ({"tasks": TERMS[::-1]}, "tasks people, places places, people"),
    ({"tasks": ()}, "tasks people, places"),
    ({"tasks": with_task(receiver=ALICE)}, "places: receiver bob alice"),
    ({"tasks": with_task(broadcast_result=False)}, "places: broadcast_result true false"),
    ({"tasks": with_task(key_columns=3)}, "places: number of key columns 2 3"),
    ({"tasks": with_task(result="count")}, "places: result rows count"),
    ({"tasks": with_task(protocol="rr22")}, "places: protocol ecdh rr22"),
    ({"tasks": with_task(protocol="kkrt")}, "places: protocol ecdh kkrt"),
    ({"tasks": with_task(**FORMS)}, "places: key_form text email/sha256, text"),
    ({"bin_items": LEAST_BIN_ITEMS // 2}, "items per bin (at least 16384) 65536 8192"),
]


@pytest.mark.parametrize(("change", "row"), DIFFERENCES, ids=[row for _, row in DIFFERENCES])
def test_every_field_of_the_agreement(change: dict[str, Any], row: str) -> None:
    with pytest.raises(DisagreementError) as caught:
        agree(OURS, replace(THEIRS, **change), BOB)
    table = [" ".join(line.split()) for line in str(caught.value.facts["table"]).splitlines()]
    assert table == ["field ours theirs", row]


@pytest.mark.parametrize(("name", "values"), [("result", "count rows"), ("protocol", "rr22 ecdh")])
def test_a_peer_of_a_version_that_knows_only_rows_and_ecdh(name: str, values: str) -> None:
    """It sends no such field, and skips that of this party."""
    with pytest.raises(DisagreementError) as caught:
        agree(replace(OURS, tasks=with_task(**{name: values.split()[0]})), THEIRS, BOB)
    assert str(caught.value.facts["table"]).splitlines()[1].split() == ["places:", name, *values.split()]


@pytest.mark.parametrize(
    ("change", "row"),
    [
        ({"key_form": ("email", "text")}, "places: key_form email/sha256, text email, text"),
        ({"forms_version": 2, "forms_probe": b"2" * 16}, "places: version of the key forms 1 2"),
        ({"forms_probe": b"2" * 16}, f"places: probe of the key forms {'00' * 16} {'32' * 16}"),
    ],
)
def test_the_first_difference_between_key_forms(change: dict[str, Any], row: str) -> None:
    ours, theirs = (replace(hello, tasks=with_task(**FORMS)) for hello in (OURS, THEIRS))
    agree(ours, theirs, BOB)
    with pytest.raises(DisagreementError) as caught:
        agree(ours, replace(theirs, tasks=with_task(**{**FORMS, **change})), BOB)
    table = [" ".join(line.split()) for line in str(caught.value.facts["table"]).splitlines()]
    assert table == ["field ours theirs", row]


def test_versions_that_forms_depend_on_may_differ() -> None:
    ours, theirs = (replace(hello, tasks=with_task(**FORMS)) for hello in (OURS, THEIRS))
    assert differing_versions(ours, theirs) == []
    other = replace(theirs, tasks=with_task(**{**FORMS, "unicode_version": "16.0.0\x1b", "phone_version": "9.0.2"}))
    agree(ours, other, BOB)
    assert differing_versions(ours, other) == [
        "Unicode: alice has version 15.0.0 and bob has 16.0.0\\x1b; characters that only the newer one knows may be "
        "spelled in two ways, and then do not match",
        "the library phonenumbers: alice has version 9.0.1 and bob has 9.0.2; numbers that only one of them takes for "
        "possible do not match",
    ]


def test_a_peer_at_another_job_may_have_them_in_another_order() -> None:
    with pytest.raises(OtherJobError) as caught:
        agree(OURS, replace(THEIRS, job="other"), BOB)
    assert "in the same order" in caught.value.advice
    with pytest.raises(DisagreementError) as caught:
        agree(OURS, replace(THEIRS, suite="psicli-v2"), BOB)
    assert "in the same order" not in caught.value.advice


def test_all_differences_at_once() -> None:
    theirs = replace(THEIRS, suite="psicli-v2", job="other", tasks=with_task(receiver=ALICE, key_columns=3))
    with pytest.raises(DisagreementError) as caught:
        agree(OURS, theirs, BOB)
    assert len(str(caught.value.facts["table"]).splitlines()) == 5


def test_equal_terms_agree_whatever_the_package() -> None:
    agree(OURS, replace(THEIRS, package_version="99", frame_items=2048, bin_items=LEAST_BIN_ITEMS), BOB)


@pytest.mark.parametrize("change", [{"party": ALICE}, {"nonce": OURS.nonce}], ids=["party", "nonce"])
def test_our_own_hello_comes_back(change: dict[str, Any]) -> None:
    with pytest.raises(PeerProtocolError, match="it introduced itself as alice, which is this party"):
        agree(OURS, replace(THEIRS, **change), BOB)


@pytest.mark.parametrize("change", ["name", "key_form"])
def test_a_hostile_hello_cannot_write_on_the_terminal(change: str) -> None:
    hostile = "\x1b]0;owned\x07\u202e\n" + "x" * 10_000
    task = replace(TERMS[0], **{change: hostile if change == "name" else (hostile,) * 255})
    with pytest.raises(DisagreementError) as caught:
        agree(OURS, replace(THEIRS, job=hostile, party=hostile, suite=hostile, tasks=(task, TERMS[1])), BOB)
    assert "owned" in caught.value.message.splitlines()[-1]
    message = caught.value.message
    assert message.isascii()
    assert message.replace("\n", "").isprintable()
    assert len(message) < 2_000


def test_both_sides_end_with_the_same_table() -> None:
    ends = joined(small(2)[0], small(2, broadcast=True)[1])
    run(ends)
    tables = []
    for end in ends:
        assert isinstance(end.failure, DisagreementError)
        rows = str(end.failure.facts["table"]).splitlines()[1:]
        tables.append([(field, *sorted(values)) for field, *values in (row.rsplit(maxsplit=2) for row in rows)])
        assert end.calls() == [[], []]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 2


@pytest.mark.parametrize("small_side", [0, 1])
def test_a_side_with_too_small_bins_ends_both_with_the_table(small_side: int) -> None:
    ends = joined(*small(2))
    links = [end.link for end in ends]
    links[small_side].own_hello = ends[small_side].terms.hello(LEAST_FRAME_ITEMS, LEAST_BIN_ITEMS // 2)
    links[1 - small_side].peer_hello = links[small_side].own_hello
    run(ends)
    for side, end in enumerate(ends):
        assert isinstance(end.failure, DisagreementError)
        assert end.failure.code == 78
        sizes = [MOST_BIN_ITEMS, LEAST_BIN_ITEMS // 2][:: 1 if side != small_side else -1]
        row = str(end.failure.facts["table"]).splitlines()[1].split()
        assert row == ["items", "per", "bin", "(at", "least", f"{LEAST_BIN_ITEMS})", *map(str, sizes)]
        assert end.calls() == [[], []]


def test_a_session_with_ourselves() -> None:
    ends = joined(*small(1))
    ends[0].link.peer_hello = ends[0].link.own_hello
    run(ends)
    assert isinstance(ends[0].failure, PeerProtocolError)
    assert decode_hello(ends[0].link.own_hello).party == ALICE


def files(*names: str, group: str = "months", **changes: Any) -> tuple[TaskTerms, ...]:
    """Return the tasks of a group between two other tasks; without names, what a group without files sends."""
    tasks = [TaskTerms(f"{group}-{name}", ALICE, False, 1, group=group) for name in names]
    tasks = tasks or [TaskTerms(group, ALICE, False, 1, group=group)]
    return (TERMS[0], *(replace(task, **changes) for task in tasks), TERMS[1])


PAIRINGS = {
    "all": (("01", "02"), ("01", "02"), ("01", "02"), (), ()),
    "one-missing-here": (("01", "03"), ("01", "02", "03"), ("01", "03"), (), ("02",)),
    "each-lacks-one": (("01", "02"), ("02", "03"), ("02",), ("01",), ("03",)),
    "nothing-in-common": (("01",), ("02",), (), ("01",), ("02",)),
    "none-here": ((), ("01", "02"), (), (), ("01", "02")),
    "none-at-all": ((), (), (), (), ()),
}


@pytest.mark.parametrize(("mine", "yours", "common", "ours", "theirs"), PAIRINGS.values(), ids=PAIRINGS)
def test_files_are_paired_by_name(mine: Any, yours: Any, common: Any, ours: Any, theirs: Any) -> None:
    """Both sides derive the same tasks in the same order, and know which of the rest is whose."""
    hellos = replace(OURS, tasks=files(*mine)), replace(THEIRS, tasks=files(*yours))
    here, there = agree(*hellos, BOB), agree(*reversed(hellos), ALICE)
    named = [tuple(f"months-{name}" for name in names) for names in (common, ours, theirs)]
    assert here.tasks == there.tasks == ("people", *named[0], "places")
    assert here.groups == (Group("months", *named),)
    assert there.groups == (Group("months", named[0], named[2], named[1]),)
    assert differing_versions(*hellos) == []


@pytest.mark.parametrize(
    ("tasks", "row"),
    [
        ((TERMS[0], TaskTerms("months", ALICE, False, 1), TERMS[1]), "months: per_file true false"),
        (TERMS, "tasks people, months, places people, places"),
        (files("01", "03", key_columns=2), "months: number of key columns 1 2"),
        (files("01", "02", receiver=BOB), "months: receiver alice bob"),
        (files("01", group="years"), "tasks people, months, places people, years, places"),
    ],
)
def test_groups_that_differ(tasks: tuple[TaskTerms, ...], row: str) -> None:
    """A difference that all files of a group share is one row."""
    with pytest.raises(DisagreementError) as caught:
        agree(replace(OURS, tasks=files("01", "02", "03")), replace(THEIRS, tasks=tasks), BOB)
    table = [" ".join(line.split()) for line in str(caught.value.facts["table"]).splitlines()]
    assert table == ["field ours theirs", row]
