"""What the documentation says about the traffic of rr22 is what follows from the sizes of its messages."""

from __future__ import annotations

import pytest
from support.docs.generate import ROOT

from psicli.protocol.rr22.sizes import sizes, token_bytes

# The traffic of ecdh for a key of both parties [bytes].
ECDH = 80


def messages(keys: int) -> tuple[int, int]:
    """Return the size of what the receiver and the sender of a bin send besides the tokens [bytes]."""
    of_bin = sizes(keys)
    return 16 * (of_bin.choices + of_bin.vector), 16 * (of_bin.keys + of_bin.sums)


def traffic(keys: int) -> int:
    """Return the traffic of two lists of so many keys in one bin [bytes]."""
    return sum(messages(keys)) + token_bytes(keys, keys) * keys


def page(name: str) -> str:
    """Return the text of a page without its line breaks."""
    return " ".join((ROOT / "docs" / name).read_text().split())


def test_a_bin_costs_the_same_on_every_page() -> None:
    receiver, sender = (f"{size / 1e6:.2f} MB" for size in messages(0))
    both = f"{sum(messages(0)) / 1e6:.2f} MB"
    assert f"the receiver sends {receiver} for it and the sender {sender}" in page("operations.md")
    assert page("performance.md").count(both) == 2
    assert f"each bin also costs [{both} and some" in page("security.md")
    assert f"2.4 MB with `ecdh`, and {100 * traffic(300) / 1e6:.0f} MB with `rr22`" in page("performance.md")


def test_bytes_of_a_pair() -> None:
    most, more, few, least = (f"{traffic(keys) / keys:,.0f}" for keys in (1_000_000, 30_000, 8_000, 300))
    assert f"| {most} bytes: 18 to the sender, 10 back |" in page("performance.md")
    assert f"| {more}, {few} and {least} bytes: " in page("performance.md")


@pytest.mark.parametrize(
    ("keys", "share", "in_words"),
    [(8_000, 1, "elow about 8,000"), (35_000, 1 / 2, "rom about 35,000"), (1_000_000, 1 / 3, "at a million")],
)
def test_where_it_sends_less(keys: int, share: float, in_words: str) -> None:
    assert traffic(keys) == pytest.approx(share * ECDH * keys, rel=0.06)
    assert in_words in page("job-file.md")
    assert in_words in page("performance.md")
