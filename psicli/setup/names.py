"""What the name of a column says about its values."""

from __future__ import annotations

import re
from collections.abc import Container
from itertools import pairwise

from psicli.config.fields import MAX_NAME

EMAIL, PHONE, UUID, HASH, ID = "email", "phone", "uuid", "hash", "id"
# Words in the names of columns, in the languages of many exports; a part of a name is compared, without its case.
_WORDS = {
    EMAIL: {"email", "emails", "mail", "emailaddress", "mailaddress", "emailadresse", "correo", "courriel"},
    PHONE: {
        *("phone", "phones", "phonenumber", "telephone", "telefon", "telefono", "telefonnummer", "tel", "mobile"),
        *("mobil", "mobilephone", "mobilenumber", "mobilnummer", "cell", "cellphone", "handy", "msisdn", "whatsapp"),
    },
    UUID: {"uuid", "guid"},
    HASH: {"hash", "hashed", "sha256", "sha", "md5", "digest"},
    ID: {
        *("id", "ids", "key", "no", "nr", "num", "number", "nummer", "code", "ref", "reference", "sku", "ean", "gtin"),
        *(
            "isbn",
            "iban",
            "bic",
            "vin",
            "imo",
            "mmsi",
            "icao",
            "icao24",
            "tail",
            "tailnum",
            "tailnumber",
            "registration",
        ),
        *(
            "account",
            "konto",
            "customerid",
            "userid",
            "kundennummer",
            "ssn",
            "vat",
            "lei",
            "serial",
            "login",
            "username",
        ),
    },
}


def concept(name: str) -> str:
    """Return what a column with this name seems to hold; empty if the name says nothing."""
    split = re.sub(r"([a-z])([A-Z])", r"\1 \2", name)
    words = [word for word in re.split(r"[\W_]+", split.casefold()) if word]
    # e_mail, e-mail and phone number are one word to people.
    words += [one + other for one, other in pairwise(words)]
    return next((found for found, known in _WORDS.items() if not known.isdisjoint(words)), "")


def is_alike(one: str, other: str) -> bool:
    """Return whether two names differ only in case, spaces and the like."""
    one, other = (re.sub(r"[\W_]+", "", name).casefold() for name in (one, other))
    return one == other != ""


def job_name(text: str, taken: Container[str] = ()) -> str:
    """Return a name that a job or a task can have, from the name of a file or other words."""
    plain = re.sub("[^a-z0-9]+", "-", text.casefold()).strip("-")[: MAX_NAME - 4].strip("-") or "task"
    numbered = (f"{plain}-{number}" for number in range(2, 1000))
    return plain if plain not in taken else next(name for name in numbered if name not in taken)
