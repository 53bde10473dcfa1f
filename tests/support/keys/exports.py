"""Customers of two organisations, whose e-mail addresses and phone numbers each export spells in its own ways.

The true addresses and numbers come from lists of real names and domains, and from the numbering plans of six countries.
Nothing here uses psicli, so the pairs and the hashes are known independently of it.
"""

from __future__ import annotations

import csv
import hashlib
import random
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from faker.providers.person.de_DE import Provider as German
from faker.providers.person.en_US import Provider as American
from faker.providers.person.es_ES import Provider as Spanish
from faker.providers.person.fr_FR import Provider as French
from faker.providers.person.pl_PL import Provider as Polish

NATIONS = (German, American, Spanish, French, Polish)
DOMAINS = (
    "gmail.com",
    "gmx.de",
    "web.de",
    "t-online.de",
    "yahoo.com",
    "outlook.com",
    "orange.fr",
    "wp.pl",
    "bücher.example",
)
PLACEHOLDERS = ("", "NULL", "n/a", "-", "unknown", "nan", "keine", "#N/A")
# Country code, prefix of national calls, and the starts of numbers with the digits that follow.
PLANS = (
    ("49", "0", (("171", 7), ("1520", 7), ("30", 8), ("89", 7))),
    ("49", "0", (("172", 7), ("160", 7), ("221", 7), ("4131", 6))),
    ("1", "1", (("212", 7), ("415", 7), ("312", 7))),
    ("44", "0", (("7700", 6), ("20", 8))),
    ("33", "0", (("6", 8), ("1", 8))),
    ("48", "", (("601", 6), ("22", 7))),
)


class Customer(NamedTuple):
    """A true e-mail address, in lower case, and a true phone number: country code, national prefix and number."""

    mail: str
    code: str
    prefix: str
    number: str

    @property
    def phone(self) -> str:
        return f"+{self.code}{self.number}"


def customers(count: int, rng: random.Random) -> list[Customer]:
    """Return customers, no two of whom share an address or a number."""
    found: dict[str, Customer] = {}
    phones: set[str] = set()
    while len(found) < count:
        nation = rng.choice(NATIONS)
        first, last = rng.choice([*nation.first_names]), rng.choice([*nation.last_names])
        name = ".".join("".join(filter(str.isalpha, each)) for each in (first, last)).lower()
        mail = f"{name}{rng.choice(['', rng.randrange(1940, 2010), rng.randrange(100)])}@{rng.choice(DOMAINS)}"
        mail = unicodedata.normalize("NFC", mail)
        code, prefix, starts = rng.choice(PLANS)
        start, digits = rng.choice(starts)
        customer = Customer(mail, code, prefix, f"{start}{rng.randrange(2 * 10 ** (digits - 1), 10**digits)}")
        if mail not in found and customer.phone not in phones:
            phones.add(customer.phone)
            found[mail] = customer
    return list(found.values())


def _plain(text: str) -> str:
    return text


MAIL_SPELLINGS: tuple[Callable[[str], str], ...] = (
    _plain,
    _plain,
    str.upper,
    str.title,
    lambda mail: f" {mail}",
    lambda mail: f"{mail}  ",
    lambda mail: f"{mail}\u00a0",
    lambda mail: f"\ufeff{mail}",
    lambda mail: f"{mail}\u200b",
    lambda mail: f"mailto:{mail}",
    lambda mail: f"Kunde <{mail}>",
    lambda mail: f'"{mail}"',
    lambda mail: f"{mail};",
    lambda mail: unicodedata.normalize("NFD", mail),
)


def _grouped(number: str, by: str) -> str:
    return by.join([number[:3], number[3:6], number[6:]])


PHONE_SPELLINGS: tuple[Callable[[Customer], str], ...] = (
    lambda each: each.phone,
    lambda each: f"+{each.code} {_grouped(each.number, ' ')}",
    lambda each: f"+{each.code}-{_grouped(each.number, '-')}",
    lambda each: f"+{each.code} ({each.prefix}) {_grouped(each.number, ' ')}" if each.prefix == "0" else each.phone,
    lambda each: f"00{each.code}{each.number}",
    lambda each: f"00{each.code} {_grouped(each.number, '.')}",
    lambda each: f"tel:+{each.code}-{each.number}",
    lambda each: f"'{each.phone}",
    lambda each: f"{each.phone}\u00a0",
    lambda each: f"\u202a{each.phone}\u202c",
    lambda each: f"+{each.code} {each.number} ext. 12",
)
# How people of the own country write; here it is Germany.
NATIONAL_SPELLINGS: tuple[Callable[[Customer], str], ...] = (
    lambda each: f"0{each.number}",
    lambda each: f"0{_grouped(each.number, ' ')}",
    lambda each: f"0{each.number[:3]}/{each.number[3:]}",
    lambda each: f"(0{each.number[:3]}) {each.number[3:]}",
    lambda each: f"0{_grouped(each.number, '-')}",
    lambda each: f"{each.code}{each.number}",
    lambda each: f"{each.code}{each.number}.0",
)


def spelled_mail(customer: Customer, rng: random.Random) -> str:
    spelled = rng.choice(MAIL_SPELLINGS)(customer.mail)
    # A capital ß is SS, from which nobody can tell the address.
    return customer.mail if "ß" in customer.mail and spelled.isupper() else spelled


def spelled_phone(customer: Customer, rng: random.Random) -> str:
    ways = PHONE_SPELLINGS + NATIONAL_SPELLINGS * 2 if customer.code == "49" else PHONE_SPELLINGS
    return rng.choice(ways)(customer)


def hashed(text: str, rng: random.Random) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return digest.upper() if rng.random() < 0.2 else digest


class Export(NamedTuple):
    """The rows of one party's file: a number of the customer, 0 for a row without one, and its spelled values."""

    path: Path
    customers: list[int]

    def matched(self, output: Path) -> list[int]:
        """Return the numbers of the customers in an output of this party."""
        with open(output, encoding="utf-8", newline="") as file:
            return [int(row["number"]) for row in csv.DictReader(file)]


def write(
    path: Path, people: Sequence[tuple[int, Customer]], rng: random.Random, *, hashes: bool, holes: int
) -> Export:
    """Write the export of one party: number, mail, phone; holes: how many more rows hold no address and no number."""
    rows: list[tuple[int, str, str]] = [
        (number, hashed(each.mail, rng), hashed(each.phone, rng))
        if hashes
        else (number, spelled_mail(each, rng), spelled_phone(each, rng))
        for number, each in people
    ]
    empty = hashlib.sha256(b"").hexdigest()
    for _ in range(holes):
        holes_of = ("", empty) if hashes else PLACEHOLDERS
        rows.append((0, rng.choice(holes_of), rng.choice(holes_of)))
    rng.shuffle(rows)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "mail", "phone"])
        writer.writerows(rows)
    return Export(path, [number for number, _, _ in rows])


class Exports(NamedTuple):
    """The exports of both parties, and the customers that both have."""

    alice: Export
    bob: Export
    common: frozenset[int]


def make(folder: Path, count: int, *, seed: int, hashes: bool) -> Exports:
    """Write two exports of `count` customers each, 40 % of them in both; hashes: whether bob holds only hashes."""
    rng = random.Random(seed)
    common = count * 2 // 5
    people = list(enumerate(customers(2 * count - common, rng), 1))
    ours, theirs = people[:count], people[count - common :]
    alice = write(folder / "alice.csv", ours, rng, hashes=False, holes=count // 50)
    bob = write(folder / "bob.csv", theirs, rng, hashes=hashes, holes=count // 50)
    return Exports(alice, bob, frozenset(number for number, _ in theirs) & frozenset(number for number, _ in ours))
