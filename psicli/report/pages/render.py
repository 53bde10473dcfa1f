"""Templates to HTML. All text is foreign: it is escaped, and stays one line of printable characters."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from psicli.core.errors import in_units, printable
from psicli.report.layout import in_words
from psicli.report.pages.charts import share

# What stands for a number or a name that this party does not know.
NOTHING = "\N{EN DASH}"


def render(template: str, *, styles: Sequence[str] = (), scripts: Sequence[str] = (), **facts: object) -> str:
    """Return a page: a template of this package, which extends base.html.j2, filled in with facts.

    styles, scripts: templates of what this page needs besides the style and the script of all pages.
    """
    environment = _environment()
    style = "\n".join(environment.get_template(name).render() for name in ("page.css.j2", *styles))
    script = "\n".join(environment.get_template(name).render() for name in ("page.js", *scripts))
    # The page allows its own style and script, and nothing that somebody smuggles into it.
    parts = {"style": style, "script": script, "style_hash": _hash(style), "script_hash": _hash(script)}
    return environment.get_template(template).render(**{name: Markup(text) for name, text in parts.items()}, **facts)


def part(template: str, **facts: object) -> str:
    """Return a part of a page, without its look."""
    return _environment().get_template(template).render(**facts)


def count(number: int | None) -> str:
    """Return a number with its thousands apart."""
    return NOTHING if number is None else f"{number:,}"


def size(octets: int | None) -> str:
    """Return a size [bytes] in a unit that fits."""
    return NOTHING if octets is None else in_units(octets)


def seconds(duration: float | None) -> str:
    """Return a duration [s] in units that fit."""
    if duration is None:
        return NOTHING
    if duration < 59.95:
        return f"{duration:.2f} s" if duration < 9.995 else f"{duration:.1f} s"
    whole = round(duration)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def percent(part: float | None) -> str:
    """Return a share from 0 to 1 in percent; what is not 0 and not 1 never looks like it."""
    if part is None:
        return NOTHING
    if part in (0, 1):
        return f"{100 * part:.0f} %"
    return f"{min(max(100 * part, 0.1), 99.9):.1f} %"


def moment(iso: str | None) -> str:
    """Return an ISO 8601 time in UTC as people write it."""
    return NOTHING if iso is None else in_words(iso)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("psicli.report.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {each.__name__: each for each in (count, size, seconds, percent, moment)}
    environment.filters["bar"] = share
    return environment


def _shown(value: object) -> object:
    """Return what a template shows for a value: no control characters, and none that turn the direction of text."""
    if value is None:
        return NOTHING
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
