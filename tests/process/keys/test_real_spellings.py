"""E-mail addresses and phone numbers as real exports spell them, on one side also as hashes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.keys import exports
from support.keys.exports import Exports
from support.processes.expectations import the_object
from support.processes.runner import Pair, Result

FORMS = {"mail": "email", "phone": "phone/DE"}


def job(pair: Pair, *, forms: bool, hashes: bool) -> Path:
    """Write a job file with a task for each of the two columns; alice receives both results."""
    tasks: list[dict[str, Any]] = []
    for column, form in FORMS.items():
        task: dict[str, Any] = {
            "name": column,
            "keys": {"alice": [column], "bob": [column]},
            "input_path": {"alice": "alice.csv", "bob": "bob.csv"},
            "output_path": {"alice": f"{column}.csv"},
        }
        if forms:
            task["key_form"] = [f"{form}/sha256" if hashes else form]
        if forms and hashes:
            task["keys"]["bob"] = [{"column": column, "normalize": "hashed"}]
        tasks.append(task)
    nodes = [{"party": "alice", "address": f"127.0.0.1:{pair.port}"}, {"party": "bob"}]
    path = pair.folder / "job.yaml"
    whole = {"job": "spellings", "cluster": {"nodes": nodes}, "psi": {"receiver": "alice"}, "tasks": tasks}
    path.write_text(yaml.safe_dump(whole))
    return path


def run(pair: Pair, path: Path) -> Result:
    result = pair.start_command("simulate", "--config", path, "--json").result()
    assert result.code == 0, result.text
    return result


def check_found(pair: Pair, made: Exports) -> None:
    """Check that at least 99.5 % of the common customers were found in each column, and nobody else."""
    for column in FORMS:
        found = Counter(made.alice.matched(pair.folder / f"{column}.csv"))
        assert set(found) <= made.common
        assert set(found.values()) == {1}
        assert len(found) >= 0.995 * len(made.common), column


@pytest.mark.parametrize("hashes", [pytest.param(True), pytest.param(False, marks=pytest.mark.more)])
@pytest.mark.parametrize("count", [2000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_forms_find_the_true_pairs(pair: Pair, count: int, hashes: bool) -> None:
    made = exports.make(pair.folder, count, seed=count, hashes=hashes)
    run(pair, job(pair, forms=True, hashes=hashes))
    check_found(pair, made)


# What a warning must say of each kind of spelling in the exports, for each column of alice.
CAUSES = {
    "mail": [
        "spaces around the key",
        "an invisible character",
        "accents as separate characters",
        "quotation marks",
        "a placeholder",
        "an e-mail address with capital letters",
        "an e-mail address inside other text",
    ],
    "phone": ["spaces around the key", "an invisible character", "a placeholder", ".0 at the end", "a phone number"],
}


@pytest.mark.more
@pytest.mark.parametrize("count", [2000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_without_forms_the_warnings_name_each_cause(pair: Pair, count: int) -> None:
    exports.make(pair.folder, count, seed=count, hashes=True)
    told = the_object(run(pair, job(pair, forms=False, hashes=True)).stdout)
    for task in told["parties"]["alice"]["tasks"]:
        warnings = "\n".join(task["warnings"])
        for cause in CAUSES[task["name"]]:
            assert cause in warnings, (task["name"], cause, warnings)
        assert "no key matched" in warnings
        assert "key_form" in warnings
    for task in told["parties"]["bob"]["tasks"]:
        warnings = "\n".join(task["warnings"])
        assert "capital letters in a UUID or a hash" in warnings
        assert "the hash of" in warnings
