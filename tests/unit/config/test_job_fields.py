"""The fields of a job file: addresses, variables, lists, paths and the policy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.job_files import SAMPLE, SMALL, TASK, Errors, Load, starts, with_nodes, with_paths

from psicli.config import Simulation
from psicli.core.errors import ArgumentError, UnknownFormatError
from psicli.core.formats import Compression, FileFormat, Format, file_format

# Addresses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["host", "host:", ":1", "host:0", "host:65536", "host:1x", "host:01", "::1:18560", "[::1]", "[host]:1", "[::g]:1",
     "[127.0.0.1]:1", "1.2.3:1", "256.1.1.1:1", "a b:1",
     "http://a:1", "-a:1", "a/b:1", "ä:1", "a" * 254 + ":1",
     "0.0.0.0:1", "[::]:1", "[fe80::1%eth0]:1"],
)  # fmt: skip
def test_bad_address(errors: Errors, address: str) -> None:
    text = with_nodes(f'{{party: alice, address: "{address}"}}', more="  tls: insecure\n")
    starts(errors(text), "5: cluster.nodes[0].address: ")


@pytest.mark.parametrize("address", ["localhost:1", "host:1", "0.0.0.0", "[::1%lo]:1", "127.0.0.1:99999"])
def test_listen_address_is_an_ip_literal(errors: Errors, address: str) -> None:
    text = with_nodes(f'{{party: alice, address: "127.0.0.1:1", listen_address: "{address}"}}')
    starts(errors(text), "5: cluster.nodes[0].listen_address: ")


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("127.0.0.1:7", "127.0.0.1"),
        ("localhost:7", "127.0.0.1"),
        ("LocalHost:7", "127.0.0.1"),
        ("127.0.0.2:7", "127.0.0.2"),
        ("[::1]:7", "::1"),
        ("alice.example.com:7", "0.0.0.0"),
        ("192.0.2.1:7", "0.0.0.0"),
        ("[2001:db8::1]:7", "::"),
    ],
)
def test_listen_address_by_default(load: Load, address: str, host: str) -> None:
    job = load(with_nodes(f'{{party: alice, address: "{address}"}}', more="  tls: insecure\n"))
    assert (job.listener.listen_host, job.listener.listen_port) == (host, 7)
    assert job.listener.address == address
    assert job.tls_insecure is True


def test_first_node_needs_an_address(errors: Errors) -> None:
    starts(errors(with_nodes("{party: alice}")), "5: cluster.nodes[0].address: is missing; the other party dials it")


def test_port_offset(load: Load) -> None:
    text = with_nodes(
        '{party: alice, address: "127.0.0.1:65000", listen_address: "[::1]:10"}',
        '{party: bob, address: "localhost:20"}',
    )
    job = load(text, port_offset=535)
    assert (job.listener.port, job.listener.listen_port) == (65535, 545)
    for offset, fault in (
        (536, "with 536, the port of 127.0.0.1:65000 is 65536 (line 5)"),
        (-20, "with -20, the port of [::1]:10 is -10 (line 5)"),
    ):
        with pytest.raises(ArgumentError) as caught:
            load(text, port_offset=offset)
        assert (caught.value.message, caught.value.code) == (f"--port-offset: {fault}", 2)


@pytest.mark.parametrize(
    ("first", "second", "field"),
    [
        ('address: "alice.example.com:1"', "", "nodes[0].address"),
        ('address: "127.0.0.1:1"', ', address: "192.0.2.1:1"', "nodes[1].address"),
        ('address: "127.0.0.1:1", listen_address: "0.0.0.0:1"', "", "nodes[0].listen_address"),
    ],
)
def test_plain_text_needs_permission(load: Load, errors: Errors, first: str, second: str, field: str) -> None:
    def text(more: str) -> str:
        return with_nodes(f"{{party: alice, {first}}}", f"{{party: bob{second}}}", more)

    (line,) = errors(text(""))
    assert f"cluster.{field}: " in line
    assert "no tls; add cluster.tls" in line
    assert load(text("  tls: insecure\n")).tls_insecure
    files = "  tls: {ca_file: ca.pem, certificate_file: a.pem, private_key_file: /etc/a.key}\n"
    tls = load(text(files)).tls
    assert tls is not None
    assert tls.private_key_file == Path("/etc/a.key")


def test_tls_name(load: Load) -> None:
    nodes = '{party: alice, address: "127.0.0.1:1", tls_name: psi.alice.example}'
    job = load(with_nodes(nodes))
    assert (job.tls_name, job.peer_tls_name) == ("psi.alice.example", "bob")


@pytest.mark.parametrize("name", ["*.example.com", "a..b", "a b", "alice:1", ".", f"{'a' * 64}.b", "a." * 127 + "a"])
def test_bad_tls_name(errors: Errors, name: str) -> None:
    (line,) = errors(with_nodes(f'{{party: alice, address: "127.0.0.1:1", tls_name: "{name}"}}'))
    assert re.match(r"\d+: cluster\.nodes\[0\]\.tls_name: .* is not a DNS name; give for example", line)


def test_tls_name_shared_by_both_parties(errors: Errors) -> None:
    (line,) = errors(with_nodes('{party: alice, address: "127.0.0.1:1", tls_name: BOB}'))
    assert "cluster.nodes[0].tls_name: 'BOB' is the certificate name of another node too; give every party" in line


@pytest.mark.parametrize("tls", ["", "no", "null", "Insecure", "[a]", "{ca_file: a, certificate_file: b}"])
def test_incomplete_tls(errors: Errors, tls: str) -> None:
    (line,) = errors(with_nodes('{party: alice, address: "a.example:1"}', more=f"  tls: {tls}\n"))
    assert line.startswith("7: cluster.tls")


# Variables ----------------------------------------------------------------------------------------------------------


def test_variables_in_paths_and_addresses(tmp_path: Path, load: Load) -> None:
    text = with_nodes(
        '{party: alice, address: "${HOST}:${PORT}", listen_address: "${HOST}:18560"}',
        more="  tls: {ca_file: '${DIR}/ca.pem', certificate_file: $$a.pem, private_key_file: a.key}\n",
    ).replace("in.csv", "'in/${DATE}/$${DATE}${DATE}.csv'")
    variables = {"HOST": "127.0.0.1", "PORT": "7", "DIR": "/etc", "DATE": "2024-01-01"}
    job = load(text, variables=variables)
    assert job.tasks[0].input.paths[0] == tmp_path / "in/2024-01-01/${DATE}2024-01-01.csv"
    assert (job.listener.address, job.listener.listen_host) == ("127.0.0.1:7", "127.0.0.1")
    assert job.tls is not None
    assert (job.tls.ca_file, job.tls.certificate_file) == (Path("/etc/ca.pem"), tmp_path / "$a.pem")


def test_variables_are_filled_once_and_after_yaml(load: Load) -> None:
    value = "${B}: [}#'\""
    job = load((SMALL + TASK).replace("in.csv", "'${A}/in.csv'"), variables={"A": value, "B": "x"})
    assert str(job.tasks[0].input.paths[0]).endswith(f"/{value}/in.csv")


def test_undefined_variable(errors: Errors) -> None:
    text = (SMALL + TASK).replace("in.csv", "'in/${DAY}/${HOUR}.csv'").replace("127.0.0.1:18560", "${HOST}:18560")
    starts(
        errors(text, variables={"HOUR": "1"}),
        "5: cluster.nodes[0].address: ${HOST} is not defined; set it in the environment or with --set HOST=VALUE",
        "11: tasks[0].input_path.alice: ${DAY} is not defined; set it in the environment or with --set DAY=VALUE",
    )


@pytest.mark.parametrize("path", ["$DATE.csv", "${}.csv", "${a-b}.csv", "a$.csv", "${A.csv", "${1}.csv"])
def test_dollar_without_a_variable(errors: Errors, path: str) -> None:
    text = (SMALL + TASK).replace("in.csv", f"'{path}'")
    starts(errors(text, variables={"DATE": "x"}), "11: tasks[0].input_path.alice: contains a $ without a variable")


def test_other_fields_keep_their_dollar_signs(load: Load) -> None:
    text = (SMALL + TASK).replace("[id]", "['${ID}']").replace("{alice: in.csv}", "{alice: in.csv, bob: '${BOB}.x'}")
    assert load(text).tasks[0].keys == ("${ID}",)


@pytest.mark.parametrize("value", ["a\nb", "\x1b[2J", "\udcff", "\0"])
def test_hostile_variable(errors: Errors, value: str) -> None:
    (line,) = errors((SMALL + TASK).replace("in.csv", "'${A}.csv'"), variables={"A": value})
    assert line.startswith("11: tasks[0].input_path.alice: ")
    assert line.isprintable()


# Lists --------------------------------------------------------------------------------------------------------------


def test_a_list_of_paths_makes_one_task_of_each(tmp_path: Path, load: Load) -> None:
    text = with_paths("{alice: [a.csv, '${B}.csv'], bob: [x.csv, y.csv]}", "{alice: [1.csv, 2.parquet]}")
    first, second = load(text, variables={"B": "b"}).tasks
    assert (first.name, first.keys, first.input.paths[0]) == ("t-1", ("id",), tmp_path / "a.csv")
    assert (second.name, second.keys, second.output_path) == ("t-2", ("id",), tmp_path / "2.parquet")
    assert second.input.paths[0] == tmp_path / "b.csv"
    assert [task.name for task in load(text, variables={"B": "b"}, only=["t-2"]).tasks] == ["t-2"]
    as_bob = text.replace("{alice: [id]}", "{bob: [id]}")
    assert [task.output_path for task in load(as_bob, party="bob").tasks] == [None, None]


def test_list_of_one(load: Load) -> None:
    assert [task.name for task in load(with_paths("{alice: [a.csv]}", "{alice: [o.csv]}")).tasks] == ["t-1"]


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        ("{alice: [a.csv, b.csv]}", "{alice: [o.csv]}", "12: tasks[0].output_path.alice: the number of paths is 1"),
        (
            "{alice: [a.csv], bob: [c.csv, d.csv]}",
            "{alice: [o.csv]}",
            "11: tasks[0].input_path.bob: the number of paths is 2, but tasks[0].input_path.alice has 1; all lists",
        ),
        ("{alice: a.csv}", "{alice: [o.csv]}", "11: tasks[0].input_path.alice: is one path"),
        ("{alice: [a.csv, b.csv]}", "{alice: [o.csv, o.csv]}", "12: tasks[0].output_path.alice[1]: is the same file"),
        ("{alice: [a.csv, b.txt]}", "{alice: [o.csv, p.csv]}", "11: tasks[0].input_path.alice[1]: 'b.txt' has no"),
        ("{alice: [a.csv, [b]]}", "{alice: [o.csv, p.csv]}", "11: tasks[0].input_path.alice[1]: is a list"),
    ],
)
def test_bad_lists(errors: Errors, inputs: str, outputs: str, expected: str) -> None:
    starts(errors(with_paths(inputs, outputs)), expected)


def test_a_name_made_by_a_list_is_taken_by_a_task(errors: Errors) -> None:
    text = with_paths("{alice: [a.csv]}", "{alice: [o.csv]}") + TASK.replace("name: t", "name: t-1")
    starts(errors(text), "13: tasks[1].name: t-1 is the name of another task (line 9)")


def test_list_makes_a_name_too_long(errors: Errors) -> None:
    text = with_paths("{alice: [a.csv]}", "{alice: [o.csv]}").replace("name: t", "name: " + "t" * 63)
    (line,) = errors(text)
    assert "is too long; a name has at most 63 characters" in line


# Paths --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", ("csv", "none")),
        ("a.tsv", ("tsv", "none")),
        ("a.csv.gz", ("csv", "gzip")),
        ("a.tsv.gz", ("tsv", "gzip")),
        ("a.csv.zst", ("csv", "zstd")),
        ("a.jsonl", ("jsonl", "none")),
        ("a.ndjson.gz", ("jsonl", "gzip")),
        ("x/a.b.parquet", ("parquet", "none")),
        ("a.feather", ("arrow", "none")),
        ("a.arrows", ("arrow stream", "none")),
        ("-", ("csv", "none")),
        ("a.CSV", ("csv", "none")),
        ("a.Tsv.GZ", ("tsv", "gzip")),
        ("a.parq", ("parquet", "none")),
        ("a.PQ", ("parquet", "none")),
    ],
)
def test_file_format(name: str, expected: tuple[str, str]) -> None:
    assert file_format(name)[:2] == expected
    assert file_format(Path(name)) == FileFormat(Format(expected[0]), Compression(expected[1]))


@pytest.mark.parametrize("name", ["a", "a.xlsb", "a.txt", "a.gz", "a.parquet.gz", "csv"])
def test_unknown_suffix(errors: Errors, name: str) -> None:
    with pytest.raises(UnknownFormatError) as caught:
        file_format(name)
    assert caught.value.code == 78
    assert ".parquet" in caught.value.advice
    # Without a suffix, it may be a folder on the machine of the other party.
    count = 1 + ("." in name)
    assert len(errors(with_paths(f"{{alice: '{name}', bob: '{name}'}}", "{alice: o.csv}"))) == count


def test_a_list_with_one_output_is_one_input(tmp_path: Path, load: Load, errors: Errors) -> None:
    (task,) = load(with_paths("{alice: [a.csv, in/*.csv]}", "{alice: o.csv}")).tasks
    assert (task.name, task.input.paths) == ("t", (tmp_path / "a.csv", tmp_path / "in/*.csv"))
    more = "    per_file: false\n"
    (task,) = load(with_paths("{alice: [a.csv, b.csv]}", "{alice: o.csv}") + more).tasks
    assert len(task.input.paths) == 2
    starts(
        errors(with_paths("{alice: [a.csv, b.csv]}", "{alice: [o.csv]}") + more),
        "12: tasks[0].output_path.alice: is a list, and with per_file: false a task has one output; give one path",
    )


def test_a_query_belongs_to_a_database(tmp_path: Path, load: Load, errors: Errors) -> None:
    database, query = with_paths("{alice: 'duckdb:c.db'}", "{alice: o.csv}"), "    query: {alice: 'SELECT ${X}'}\n"
    (task,) = load(database + query, variables={"X": "1"}).tasks
    assert (task.input.paths, task.input.query) == ((tmp_path / "c.db",), "SELECT 1")
    lines = database + "    query:\n      alice: |\n        SELECT 1\n        -- and no more\n"
    assert load(lines).tasks[0].input.query == "SELECT 1\n-- and no more\n"
    (task,) = load(with_paths("{alice: 'duckdb:?SELECT 2'}", "{alice: o.csv}")).tasks
    assert (task.input.paths, task.input.query, str(task.input)) == ((), "SELECT 2", "duckdb:")
    starts(errors(database), "9: tasks[0].query.alice: is missing, and the input is a database; write, for example,")
    starts(
        errors(with_paths("{alice: in.csv}", "{alice: o.csv}") + query.replace("${X}", "1")),
        "13: tasks[0].query.alice: has no effect on files; remove it, or name a database such as duckdb:crm.duckdb",
    )
    starts(
        errors(with_paths("{alice: ['duckdb:c.db?SELECT 1', a.csv]}", "{alice: o.csv}")),
        "11: tasks[0].input_path.alice[0]: is a database in a list; name one database",
    )
    starts(
        errors(database.replace("duckdb:c.db", "duckdb:c.db?SELECT 1") + query.replace("${X}", "1")),
        "13: tasks[0].query.alice: is a second query: input_path has one, too; remove one of them",
    )
    output = with_paths("{alice: 'duckdb:c.csv?SELECT 1'}", "{alice: c.csv}")
    starts(errors(output), "12: tasks[0].output_path.alice: is the same file as tasks[0].input_path.alice (line 11)")


def test_output_must_not_be_the_input_of_a_later_task(errors: Errors) -> None:
    later = (
        TASK.replace("name: t", "name: u")
        .replace("in.csv", "out.csv")
        .replace("{alice: out.csv}\n", "{alice: p.csv}\n")
    )
    later = later.replace("input_path: {alice: p.csv}", "input_path: {alice: out.csv}")
    starts(errors(SMALL + TASK + later), "12: tasks[0].output_path.alice: is the same file as tasks[1].input_path")


def test_one_input_may_serve_many_tasks(load: Load) -> None:
    assert len(load(SMALL + TASK + TASK.replace("name: t", "name: u").replace("out.csv", "p.csv")).tasks) == 2


def test_only_one_task_uses_a_standard_stream(errors: Errors) -> None:
    one = TASK.replace("in.csv", "'-'").replace("out.csv", "'-'")
    starts(
        errors(SMALL + one + one.replace("name: t", "name: u")),
        "15: tasks[1].input_path.alice: - is the input of another task (line 11)",
        "16: tasks[1].output_path.alice: is the same file as tasks[0].output_path.alice (line 12)",
    )


def test_loading_reads_only_the_job_file(tmp_path: Path, load: Load) -> None:
    load(SAMPLE)
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


# Policy -------------------------------------------------------------------------------------------------------------


def with_policy(policy: str, **replaced: str) -> str:
    text = SMALL.replace("tasks:\n", f"policy: {{{policy}}}\ntasks:\n") + TASK
    for old, new in replaced.items():
        text = text.replace(f"{old}: alice", f"{old}: {new}")
    return text


def test_a_job_without_a_policy_allows_everything(load: Load) -> None:
    policy = load(SMALL + TASK).policy.model_dump()
    assert [policy.pop(name) for name in ("strict", "whole_percent")] == [False, False]
    assert set(policy.values()) == {None}


def test_every_limit(load: Load) -> None:
    limits = {
        "min_items": 7,
        "min_peer_items": 1,
        "max_peer_items": 1,
        "max_runs_per_day": 3,
        "min_difference": 1000,
        "max_match_rate": 0.25,
        "min_output_rows": 9,
        "max_drift": 1.5,
        "whole_percent": True,
        "min_duration": 60,
        "max_duration": 3600,
        "strict": False,
    }
    assert load(with_policy(str(limits).strip("{}").replace("'", ""))).policy.model_dump() == limits


@pytest.mark.parametrize(("text", "rate"), [("1", 1.0), ("1.00", 1.0), ("0.5", 0.5), ("0.000000000001", 1e-12)])
def test_rates(load: Load, text: str, rate: float) -> None:
    assert load(with_policy(f"max_match_rate: {text}")).policy.max_match_rate == rate


@pytest.mark.parametrize("text", ["0", "0.0", "1.5", "1.01", "2", "-0.5", "25%", ".5", "5e-1", "nan", "inf", "half"])
def test_bad_rate(errors: Errors, text: str) -> None:
    starts(
        errors(with_policy(f"max_match_rate: {text}")),
        f"8: policy.max_match_rate: '{text.strip(chr(39))}' is not a rate; give a decimal fraction above 0",
    )


@pytest.mark.parametrize("name", ["min_peer_items", "max_peer_items", "max_runs_per_day", "min_output_rows"])
def test_bad_limit(errors: Errors, name: str) -> None:
    starts(errors(with_policy(f"{name}: 0")), f"8: policy.{name}: 0 is out of range; give at least 1")
    starts(errors(with_policy(f"{name}: 1.5")), f"8: policy.{name}: '1.5' is not a whole number")
    starts(errors(with_policy(f"{name}s: 1")), f"8: policy.{name}s: unknown field; did you mean {name}?")


def test_min_peer_items_above_max_peer_items(errors: Errors) -> None:
    starts(
        errors(with_policy("min_peer_items: 11, max_peer_items: 10")),
        "8: policy.min_peer_items: 11 is more than max_peer_items, which is 10; lower it, or raise max_peer_items",
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("30 s", 30), ("45", 45), ("1", 1), ("10m", 600), ("2h", 7200), ("1d", 86_400), ("366d", 31_622_400)],
)
def test_a_duration_has_a_unit_or_is_a_number_of_seconds(load: Load, text: str, seconds: int) -> None:
    assert load(with_policy(f"min_duration: {text}")).policy.min_duration == seconds
    assert load(with_policy(f"max_duration: '{text}'")).policy.max_duration == seconds


@pytest.mark.parametrize(
    "text", ["soon", "0", "0s", "-5", "1.5h", "10 min", "1h30m", "10M", "1e3", "0x10", "٣m", "1_0", "' 1h'"]
)
def test_what_is_not_a_duration(errors: Errors, text: str) -> None:
    starts(errors(with_policy(f"min_duration: {text}")), "8: policy.min_duration: '")
    (error,) = errors(with_policy(f"max_duration: {text}"))
    assert error.endswith(" is not a duration; give for example 30s, 10m, 2h or 1d")


@pytest.mark.parametrize("text", ["367d", "999999999d", "31622401"])
def test_a_duration_is_at_most_a_year(errors: Errors, text: str) -> None:
    right = "is more than a year; give at most 366d"
    assert errors(with_policy(f"max_duration: {text}")) == [f"8: policy.max_duration: '{text}' {right}"]


def test_the_shortest_duration_is_not_above_the_longest(errors: Errors, load: Load) -> None:
    load(with_policy("min_duration: 60, max_duration: 1m"))
    assert errors(with_policy("min_duration: 2h, max_duration: 90m")) == [
        "8: policy.min_duration: 2h is more than max_duration, which is 90m; lower it, or raise max_duration"
    ]


def test_a_strict_policy_needs_certificates(errors: Errors, load: Load) -> None:
    strict, right = with_policy("strict: True"), "name the files of this party's certificate, for example `tls: "
    starts(errors(strict), f"8: policy.strict: needs TLS, and there is no cluster.tls; {right}")
    text = strict.replace("psi:", "  tls: insecure\npsi:")
    starts(errors(text), f"7: cluster.tls: is not allowed by policy.strict; {right}")
    text = text.replace("insecure", "{ca_file: a, certificate_file: b, private_key_file: c}")
    assert load(text).policy.strict


@pytest.mark.parametrize("limit", ["max_match_rate: 0.5", "min_output_rows: 5"])
def test_limits_on_a_result_this_party_does_not_learn(load: Load, errors: Errors, limit: str) -> None:
    name = limit.split(":")[0]
    right = "remove the limit, or move the task to another job"
    what = "cannot be checked, because alice does not learn the result of task t"
    text = with_policy(limit, receiver="bob")
    starts(errors(text), f"8: policy.{name}: {what}; {right}")
    load(text.replace("{receiver: bob}", "{receiver: bob, broadcast_result: true}"))
    load(text.replace("name: t", "name: t\n    receiver: alice"))
    # Only the tasks that run count.
    mixed = text + TASK.replace("name: t", "name: u\n    receiver: alice").replace("out.csv", "u.csv")
    load(mixed, only=["u"])
    starts(errors(mixed), f"8: policy.{name}: {what}")
    # A wrong --party is the only error then.
    with pytest.raises(ArgumentError, match="--party: 'carol' is not a party of this job"):
        load(text, party="carol")


def test_a_simulation_has_no_policy(load: Load, tmp_path: Path) -> None:
    text = with_policy("max_match_rate: nonsense, strict: true", receiver="bob")
    policy = load(text, simulation=Simulation(18560, Path())).policy
    assert policy.max_match_rate is None
    assert not policy.strict
