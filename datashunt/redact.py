"""Takes e-mail addresses, phone numbers, card numbers and IBANs out of a text. Pure; imports classifier and errors.

Card numbers and IBANs count only if their checksum is right, phone numbers only if the number plan of their country
knows them: an order number stays what it is. Two libraries of the extra `redact` know these rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from types import ModuleType
from typing import Any

from datashunt.classifier import Secret
from datashunt.errors import UsageError, install

PLACEHOLDERS: dict[Secret, str] = {"iban": "[IBAN]", "card": "[CARD]", "email": "[EMAIL]", "phone": "[PHONE]"}
"""What stands in the place of each; in the order in which they are looked for."""

# Possessive, and only from where such a word begins: linear in the length of the text.
_LOCAL = r"[\w.!#$%&'*+/=?^`{|}~-]"
_EMAIL = re.compile(rf"(?<!{_LOCAL}){_LOCAL}++@[\w-]++(?:\.[\w-]++)+")
_GAP = "[ \u00a0\u202f.-]?"  # what people put between groups of digits
_DIGITS = re.compile(rf"(?<!\w)\d(?:{_GAP}\d)*+")
_GROUPS = re.compile(r"\d+")
_CARD_DIGITS = range(13, 20)
_IBAN = re.compile(rf"(?<!\w)[A-Za-z]{{2}}\d\d(?:{_GAP}[A-Za-z0-9]){{11,30}}+")

Span = tuple[int, int]


def redact(text: str, secrets: Collection[Secret], phone_region: str | None = None) -> str:
    """The text with a placeholder for each secret; unchanged without any.

    Args:
        text: any text.
        secrets: which kinds to look for; all others stay.
        phone_region: country whose phone numbers may stand without a country code, two letters; None: numbers
            that do not begin with + stay.

    Raises:
        UsageError: the libraries for it are not installed, or there is no such region.
    """
    if not secrets:
        return text
    phonenumbers, card_is_valid, iban_is_valid = _libraries()
    if phone_region is not None and phone_region not in phonenumbers.SUPPORTED_REGIONS:
        raise UsageError(f"llm.phone_region: expected a country such as US or DE, found {phone_region!r}")
    finders: dict[Secret, Callable[[str], Iterator[Span]]] = {
        "iban": lambda said: _ibans(said, iban_is_valid),
        "card": lambda said: _cards(said, card_is_valid),
        "email": lambda said: (match.span() for match in _EMAIL.finditer(said)),
        "phone": lambda said: _phones(said, phonenumbers, phone_region),
    }
    for secret, placeholder in PLACEHOLDERS.items():
        if secret in secrets:
            text = _replaced(text, finders[secret](text), placeholder)
    return text


def _replaced(text: str, spans: Iterator[Span], placeholder: str) -> str:
    pieces, end = [], 0
    for start, stop in spans:
        pieces += [text[end:start], placeholder]
        end = stop
    return "".join([*pieces, text[end:]])


def _ibans(text: str, is_valid: Callable[[str], bool]) -> Iterator[Span]:
    match = _IBAN.search(text)
    while match:
        start, limit = match.span()
        # Words that follow look like more of it; only the length that its country has passes.
        ends = (end for end in range(limit, start + 14, -1) if text[end - 1].isalnum())
        found = next((end for end in ends if is_valid(text[start:end])), None)
        if found is not None:
            yield start, found
        match = _IBAN.search(text, found or start + 2)


def _cards(text: str, is_valid: Callable[[str], bool]) -> Iterator[Span]:
    """Runs of whole groups of digits that are a card number: other numbers may stand before and behind it."""
    for match in _DIGITS.finditer(text):
        groups = [group.span() for group in _GROUPS.finditer(text, *match.span())]
        first = 0
        while first < len(groups):
            last = _last_of_card(text, groups, first, is_valid)
            if last is not None:
                yield groups[first][0], groups[last][1]
            first = first + 1 if last is None else last + 1


def _last_of_card(text: str, groups: list[Span], first: int, is_valid: Callable[[str], bool]) -> int | None:
    digits, found = "", None
    for last in range(first, len(groups)):
        start, stop = groups[last]
        digits += "".join(str(int(digit)) for digit in text[start : min(stop, start + 20)])
        if len(digits) > _CARD_DIGITS[-1]:
            break
        if len(digits) in _CARD_DIGITS and digits[0] in "23456" and is_valid(digits):
            found = last
    return found


def _phones(text: str, phonenumbers: Any, region: str | None) -> Iterator[Span]:
    for match in phonenumbers.PhoneNumberMatcher(text, region):
        yield match.start, match.end


def _libraries() -> tuple[ModuleType, Callable[[str], bool], Callable[[str], bool]]:
    try:
        import phonenumbers
        from stdnum import iban, luhn
    except ImportError:
        raise UsageError(f"llm.redact needs two more libraries: {install('redact')}") from None
    return phonenumbers, luhn.is_valid, iban.is_valid
