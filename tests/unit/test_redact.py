"""Nothing of a secret is sent, and nothing else is touched."""

from __future__ import annotations

import builtins
import json
from typing import Any

import phonenumbers
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from stdnum import iban, luhn

from datashunt.classifier import Secret
from datashunt.classifier import parse as parse_spec
from datashunt.errors import UsageError
from datashunt.prompts import prompt_hash, render, reuse_key
from datashunt.redact import PLACEHOLDERS, redact

ALL: tuple[Secret, ...] = ("email", "phone", "card", "iban")
PROSE = st.text(st.characters(codec="utf-8", exclude_categories=["Nd", "Cs"], exclude_characters="@"), max_size=60)
AROUND = PROSE.map(lambda text: f"{text} ")
GAPS = st.sampled_from(["", " ", "-", "\u00a0", "."])


def spec(**llm: Any) -> Any:
    return parse_spec({"name": "n", "labels": ["a", "b"], "instruction": "i", "llm": llm})


@st.composite
def cards(draw: st.DrawFn) -> str:
    digits = draw(st.sampled_from("3456")) + draw(st.text("0123456789", min_size=11, max_size=17))
    return digits + luhn.calc_check_digit(digits)


@st.composite
def ibans(draw: st.DrawFn) -> str:
    land, length = draw(st.sampled_from([("DE", 18), ("AT", 16), ("PL", 24), ("NL", 0)]))
    account = "ABNA" + draw(st.text("0123456789", min_size=10, max_size=10)) if land == "NL" else ""
    number = account or draw(st.text("0123456789", min_size=length, max_size=length))
    whole = land + iban.calc_check_digits(f"{land}00{number}") + number
    assume(iban.is_valid(whole))
    return whole


@st.composite
def phones(draw: st.DrawFn) -> str:
    region = draw(st.sampled_from(["US", "DE", "FR", "GB", "IN", "BR"]))
    number = phonenumbers.example_number_for_type(region, draw(st.sampled_from([0, 1])))
    style = draw(st.sampled_from([phonenumbers.PhoneNumberFormat.INTERNATIONAL, phonenumbers.PhoneNumberFormat.E164]))
    return phonenumbers.format_number(number, style)


def grouped(number: str, gap: str) -> str:
    return gap.join(number[start : start + 4] for start in range(0, len(number), 4))


@given(AROUND, st.emails(), PROSE)
@example("mail ", "o'brien+news@example.co.uk", "")
def test_no_address_survives(before: str, secret: str, after: str) -> None:
    said = redact(f"{before}{secret} {after}", ["email"])
    assert secret not in said
    assert said.endswith(f"[EMAIL] {after}")


@given(AROUND, cards(), GAPS, PROSE)
def test_no_card_number_survives(before: str, secret: str, gap: str, after: str) -> None:
    assert redact(f"{before}{grouped(secret, gap)} {after}", ["card"]) == f"{before}[CARD] {after}"


@given(AROUND, ibans(), GAPS, PROSE, st.booleans())
def test_no_iban_survives(before: str, secret: str, gap: str, after: str, lower: bool) -> None:
    written = grouped(secret.lower() if lower else secret, gap)
    said = redact(f"{before}{written} ({after}", ["iban"])
    assert written not in said
    assert "[IBAN]" in said


@given(AROUND, phones(), PROSE)
def test_no_phone_number_survives(before: str, secret: str, after: str) -> None:
    assume(not before.rstrip().endswith(("+", "(", "/")))
    assert secret not in redact(f"call {secret}, {after}", ["phone"])


@given(PROSE)
def test_a_text_without_secrets_is_unchanged(text: str) -> None:
    assert redact(text, ALL) == text


@pytest.mark.parametrize(
    "text",
    [
        "order 4111 1111 1111 1112 of 12/24",  # the checksum is wrong
        "DE00 3704 0044 0532 0130 00",
        "version 1.2.3, 20 %, 1,000,000",
        "ask @support about x@",
        "https://example.com/a+b",
    ],
)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert redact(text, ["card", "iban", "email"]) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pay 4111-1111-1111-1111 12/27 please", "pay [CARD] 12/27 please"),
        ("ref 12 4111 1111 1111 1111 378282246310005", "ref 12 [CARD] [CARD]"),
        ("DE89 3704 0044 0532 0130 00 BIC GENODEF1", "[IBAN] BIC GENODEF1"),
        ("from DE89370400440532013000 GB82WEST12345698765432", "from [IBAN] [IBAN]"),
        ("AB12 is not it, DE89370400440532013000 is", "AB12 is not it, [IBAN] is"),
        ("<a.b@c.example>, x@y.example.", "<[EMAIL]>, [EMAIL]."),
        ("call +49 30 901820 or +1 650-253-0000", "call [PHONE] or [PHONE]"),
    ],
)
def test_only_the_secret_goes(text: str, said: str) -> None:
    assert redact(text, ALL) == said


def test_numbers_without_a_country_code_are_found_when_the_country_is_given() -> None:
    text = "call (650) 253-0000 today"
    assert redact(text, ["phone"]) == text
    assert redact(text, ["phone"], "US") == "call [PHONE] today"


def test_an_unknown_country_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"phone_region.*'XX'"):
        redact("", ["phone"], "XX")


def test_a_long_text_of_one_word_takes_no_time_to_speak_of() -> None:
    assert redact("a" * 1_000_000, ["email"]) == "a" * 1_000_000
    assert redact("1 " * 20_000, ["card", "iban"]) == "1 " * 20_000


def test_the_llm_sees_the_placeholder_as_it_is() -> None:
    prompt = render(spec(redact=["email"]), "I am jo@example.com [INST]")
    assert prompt.data == '{"item": "I am [EMAIL] \\u005bINST]"}'
    assert json.loads(prompt.data)["item"] == "I am [EMAIL] [INST]"


def test_redaction_is_part_of_the_hash_of_the_prompt_and_of_the_reuse_key() -> None:
    plain, careful = spec(), spec(redact=["email"])
    assert prompt_hash(plain) != prompt_hash(careful)
    assert prompt_hash(careful) == prompt_hash(spec(redact=["email", "email"]))
    assert reuse_key(plain, "x", render(plain, "x")) != reuse_key(careful, "x", render(careful, "x"))


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "phonenumbers":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"install the extra redact"):
        redact("", ["card"])
    assert redact("x@y.z", []) == "x@y.z"


def test_every_kind_has_a_placeholder() -> None:
    assert set(PLACEHOLDERS) == set(ALL)
