"""Numbers in words for figures and tables, and texts of records made safe for pages.

Labels, names of machines and notes come from records, which come from other people too. On a page
they are to be read as they stand: no markup, no TeX.
"""

import html
import re
from collections.abc import Iterable, Sequence

CROWDED = 9  # more methods than this are not named one by one beside marks or as pairs
MANY = 20  # of more methods than this, intervals would hide the marks of a figure


JOINER = "\u2060"  # has no width, and is no letter of a TeX command
_SIGNS = re.compile(
    r"([\\`_{}\[\]<>$|~#&])"
)  # what means something in a line of Markdown, less `*`


def _without_tex(text: str) -> str:
    """The text with what Jupyter would draw as TeX, `$$` and commands, broken up, invisibly."""
    return re.sub(rf"(\\(?!{JOINER})|\$(?=\$))", rf"\1{JOINER}", text)


def as_html(text: str) -> str:
    """A text as HTML that shows it as it is, inside an element or an attribute in quotes."""
    return html.escape(_without_tex(text))


def as_markdown(text: str) -> str:
    """A text in one line as Markdown (CommonMark, MyST) that shows it as it is."""
    return sentences(" ".join(text.split())).replace("*", r"\*")


def as_code(text: str) -> str:
    """A text in one line as code in Markdown, whatever backticks it holds."""
    text = " ".join(text.split())
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


def sentences(text: str) -> str:
    """Sentences about records as Markdown, in which only `**`, lines and lists mean something."""
    return _SIGNS.sub(r"\\\1", _without_tex(text))


def rate_text(rate: float) -> str:
    """A learning rate as people write it: 3e-4, 1.35e-3."""
    mantissa, exponent = f"{rate:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def signed(value: float, digits: int) -> str:
    """A number with its sign and so many decimals; never -0.0."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def points_text(points: float) -> str:
    """A gain in points, as it was given: `+12`, `+12.5`."""
    return f"{points:+g}"


def listed(values: Iterable[object]) -> str:
    """Distinct values in their order, as `a, b and c`."""
    words = list(dict.fromkeys(str(value) for value in values))
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def duration(seconds: float) -> str:
    """Seconds in words: `43 s`, `4.2 min`, `1.5 h`."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"


def count(number: float) -> str:
    """A large number in words: `950`, `2.13 M`."""
    return _scaled(number, 1000, ("", " k", " M", " G"))


def size(number: float) -> str:
    """Bytes in words, decimal units: `19.6 MB`."""
    return _scaled(number, 1000, (" B", " kB", " MB", " GB", " TB"))


def memory(number: float) -> str:
    """Bytes in words, binary units: `1.6 GiB`."""
    return _scaled(number, 1024, (" B", " KiB", " MiB", " GiB", " TiB"))


def _scaled(number: float, step: int, units: Sequence[str]) -> str:
    power = 0
    while abs(number) >= 0.9995 * step and power < len(units) - 1:
        number, power = number / step, power + 1
    return f"{number:.3g}{units[power]}"
