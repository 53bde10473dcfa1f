"""The bounds of field elements that the headers of the kernel state, as numbers; tests/kernel/limbs proves them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    """The limbs of a header: their widths [bits], and the largest value that each may have [inclusive]."""

    header: str
    bits: tuple[int, ...]
    # The largest limbs that fe_carry and products return, and fe_reduce takes.
    tight: tuple[int, ...]
    # The largest limbs that a product takes.
    loose: tuple[int, ...]
    # The largest limb that fe_carry takes.
    carried: int
    # All columns of a product stay below 2 to this power.
    column_bits: float
    # The sentences of the header that state these numbers.
    claims: tuple[str, ...]

    @property
    def offsets(self) -> tuple[int, ...]:
        return tuple(sum(self.bits[:i]) for i in range(len(self.bits)))

    def value(self, limbs: list[int]) -> int:
        return sum(limb << offset for limb, offset in zip(limbs, self.offsets, strict=True))

    def limbs(self, value: int) -> list[int]:
        """Return the limbs of a value, each within its width; the highest limb takes the rest."""
        limbs = [value >> offset & (1 << bits) - 1 for bits, offset in zip(self.bits, self.offsets, strict=True)]
        return [*limbs[:-1], value >> self.offsets[-1]]


FIELD25 = Field(
    header="field25.h",
    bits=(26, 25) * 5,
    tight=(2**26 + 2**18 - 1, 2**25 + 2**18 - 1) * 5,
    loose=(int(2**27.6), int(2**26.6)) * 5,
    carried=2**63 - 1,
    column_bits=62.2,
    claims=(
        "tight if its limbs are below 2^26 + 2^18 (even) and 2^25 + 2^18 (odd): results of fe_carry and of products;",
        "loose if its limbs are below 2^27.6 (even) and 2^26.6 (odd)",
        "Products take loose elements and return tight ones.",
        "the largest column of a product, 2^55.2 * (1 + 19 * 6.5), below 2^62.2",
        "h = f, tight; limbs of f below 2^63.",
        "h = f + g, loose if both are tight.",
        "h = f - g, loose if f is tight; g must be tight.",
        "h = f * n, tight; f loose, n below 2^32.",
        "the value below p; f tight.",
    ),
)
FIELD51 = Field(
    header="field51.h",
    bits=(51,) * 5,
    tight=(2**51 + 2**17 - 1,) * 5,
    loose=(2**53 - 1,) * 5,
    carried=2**63 - 1,
    column_bits=113,
    claims=(
        "tight if its limbs are below 2^51 + 2^17: results of fe_carry and of products;",
        "loose if its limbs are below 2^53",
        "Products take loose elements and return tight ones.",
        "A column, at most 2^106 * (1 + 19 * 4), stays below 2^113.",
        "h = f, tight; limbs of f below 2^63.",
        "h = f + g, loose if both are tight.",
        "h = f - g, loose if f is tight; g must be tight.",
        "h = f * n, tight; f loose, n below 2^32.",
        "the value below p; f tight.",
    ),
)
FIELD52 = Field(
    header="field52.h",
    bits=(51,) * 5,
    tight=(2**51 + 2**15 - 1,) * 5,
    loose=(2**51 + 2**15 - 1,) * 5,
    carried=2**61 - 1,
    column_bits=61,
    claims=(
        "Every function takes and returns tight elements: limbs below 2^51 + 2^15",
        "A folded column, at most 20 * 15 * 2^52, stays below 2^61.",
        "h = f, tight; limbs of f below 2^61.",
        "h = f * n; n below 2^32.",
    ),
)
FIELDS = (FIELD25, FIELD51, FIELD52)


@dataclass(frozen=True)
class Path:
    field: Field
    lanes: int


# Every CPU path by its name.
PATHS = {
    "avx512ifma": Path(FIELD52, 8),
    "avx512": Path(FIELD25, 8),
    "avx2": Path(FIELD25, 4),
    "portable": Path(FIELD51, 1),
}
