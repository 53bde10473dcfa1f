"""The names of key forms: as users write them in a job file, and as both parties agree on them."""

from __future__ import annotations

from psicli.core.records import dataclass

# The bases of all forms, each with what may follow it after a slash; a region is two capital letters.
REGION = "REGION"
BASES: dict[str, tuple[str, ...]] = {
    "text": (),
    "trim": (),
    "nfc": (),
    "lower": (),
    "digits": (),
    "integer": (),
    "email": (),
    "email/plain": (),
    "phone": (REGION,),
    "date": ("DMY", "MDY"),
    "timestamp": (),
    "uuid": (),
}
SHA256 = "/sha256"
# What a party writes whose column holds hashes already.
HASHED = "hashed"


@dataclass(frozen=True)
class Form:
    """The form of one key column of this party.

    base: a key of BASES. option: how this party's own values are to be read: the default region of its phone numbers,
    or the order of day and month in its dates; empty for the base alone. sha256: whether the hashes of the values are
    compared. hashed: whether this party's column holds these hashes already.
    """

    base: str = "text"
    option: str = ""
    sha256: bool = False
    hashed: bool = False

    def __str__(self) -> str:
        """Return the form as the job file names it."""
        return HASHED if self.hashed else "/".join(filter(None, [self.base, self.option])) + SHA256 * self.sha256

    @property
    def agreed(self) -> str:
        """Return the form as both parties must name it: without what concerns this party's values only."""
        return self.base + SHA256 * self.sha256

    @property
    def is_text(self) -> bool:
        """Return whether the form leaves every value as it is."""
        return self == Form()


def parse_form(text: str) -> Form:
    """Return the form with a name such as `email/sha256` or `phone/DE`; raises ValueError with the reason.

    `hashed` is no form of its own: it says how a party holds the values of another form.
    """
    name = text.removesuffix(SHA256)
    base, _, option = (name, "", "") if name in BASES else name.rpartition("/")
    if base not in BASES or (option and not _allows(base, option)):
        raise ValueError(f"there is no key form {text!r}")
    return Form(base, option, sha256=name != text)


def _allows(base: str, option: str) -> bool:
    is_region = len(option) == 2 and option.isascii() and option.isalpha() and option.isupper()
    return (option in BASES[base] and option != REGION) or (REGION in BASES[base] and is_region)
