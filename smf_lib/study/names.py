"""What names and texts may hold, in profiles and in records, which come from other people too.

A name becomes part of files, of commands and of addresses, so it is made of few characters. A text
is shown as it is, on pages and in terminals; only what would do something there is refused:
control characters, and the marks by which a text turns the direction of what stands beside it.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from pydantic import AfterValidator

LONGEST_NAME, LONGEST_TEXT = 100, 4000
LONGEST_LABEL = 120
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_TURNING = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or that there is none."""
    return (str(error).strip().splitlines() or ["no message"])[0]


def check_name(value: str) -> str:
    """The name itself.

    Raises:
        ValueError: it is not 1 to 100 letters, digits and . _ + - that begin with a letter or
            digit.
    """
    if not _NAME.fullmatch(value) or len(value) > LONGEST_NAME:
        raise ValueError(
            f"{_shown(value)} must be 1 to {LONGEST_NAME} of the characters A-Z a-z 0-9 . _ + -, a "
            "letter or digit first, since files are named after it"
        )
    return value


def check_text(value: str, longest: int = LONGEST_TEXT, lines: bool = False) -> str:
    """The text itself.

    Args:
        value: the text.
        longest: how many characters it may have.
        lines: whether it may have several lines.

    Raises:
        ValueError: it is longer; it has a control character, or a mark of direction.
    """
    found = {c for c in value if c in _TURNING or unicodedata.category(c) in _REFUSED}
    if lines:
        found -= {"\n", "\t"}
    if found:
        codes = ", ".join(sorted(f"U+{ord(c):04X}" for c in found))
        raise ValueError(f"{_shown(value)} holds {codes}, which is no text; take it out")
    if len(value) > longest:
        raise ValueError(f"{_shown(value)} has {len(value)} characters; at most {longest} can be")
    return value


_REFUSED = {"Cc", "Cs", "Zl", "Zp"}  # control, half a pair, ends of lines and of paragraphs


def _check_label(value: str) -> str:
    if not value.strip():
        raise ValueError(f"{value!r} is empty; name the method in a few words")
    return check_text(value, LONGEST_LABEL)


Name = Annotated[str, AfterValidator(check_name)]
Label = Annotated[str, AfterValidator(_check_label)]


def texts_in(content: Any, place: tuple = ()) -> Iterator[tuple[str, str]]:
    """Each text of JSON-like content with its place (`methods.lora.label`); keys are texts too."""
    if isinstance(content, str):
        yield ".".join(map(str, place)), content
    elif isinstance(content, dict):
        for key, value in content.items():
            if isinstance(key, str):
                yield ".".join(map(str, (*place, "(key)"))), key
            yield from texts_in(value, (*place, key))
    elif isinstance(content, (list, tuple)):
        for index, value in enumerate(content):
            yield from texts_in(value, (*place, index))


def map_texts(content: Any, change: Callable[[str], str]) -> Any:
    """JSON-like content with each text as `change` returns it; keys stay."""
    if isinstance(content, str):
        return change(content)
    if isinstance(content, dict):
        return {key: map_texts(value, change) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [map_texts(value, change) for value in content]
    return content


def _shown(value: str) -> str:
    """The beginning of a value, with escapes for what is no text."""
    return ascii(value) if len(value) <= 60 else f"{value[:60]!a}..."
