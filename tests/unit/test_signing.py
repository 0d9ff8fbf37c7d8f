"""Signatures of messages: of these keys, task and bytes, and of nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from test_broker import drain

from datashunt.broker import Publisher, configure
from datashunt.errors import SettingsError
from datashunt.items import Wake
from datashunt.settings import load
from datashunt.signing import HEADER, RECEIPT, Signer

KEY, OLD, OTHER = "k" * 32, "o" * 32, "x" * 32


@given(st.text(max_size=20), st.binary(max_size=200), st.binary(max_size=200))
def test_a_signature_is_of_these_bytes(task: str, body: bytes, other: bytes) -> None:
    signer = Signer(SecretStr(KEY))
    signature = signer.sign(task, body)
    assert signer.fault(task, body, signature) is None
    assert (signer.fault(task, other, signature) is None) is (body == other)
    assert signer.fault(f"{task}x", body, signature) == "wrong_signature"
    assert Signer(SecretStr(OTHER)).fault(task, body, signature) == "wrong_signature"


@given(st.one_of(st.none(), st.text(), st.integers(), st.lists(st.text()), st.just("\ud800")))
def test_whatever_stands_in_the_header_is_refused(signature: Any) -> None:
    said = Signer(SecretStr(KEY)).fault("datashunt.score", b"[]", signature)
    assert said == ("unsigned" if signature is None else "wrong_signature")


def test_while_keys_change_both_are_taken_and_the_new_one_signs() -> None:
    both = Signer(SecretStr(f"{KEY}, {OLD}"))
    assert both.fault("t", b"b", Signer(SecretStr(OLD)).sign("t", b"b")) is None
    assert both.sign("t", b"b") == Signer(SecretStr(KEY)).sign("t", b"b")
    assert both.fault("t", b"b", Signer(SecretStr(OTHER)).sign("t", b"b")) == "wrong_signature"


@pytest.mark.parametrize("key", ["", "hunter2", f"{KEY},", f"{KEY},hunter2"])
def test_a_short_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(SettingsError, match=r"DATASHUNT_MESSAGE_KEY: .*at least 32 characters") as refused:
        load(message_key=SecretStr(key))
    assert "hunter2" not in str(refused.value)


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    """A publisher with a key, to a broker inside this process."""
    made = Publisher(SecretStr("memory://"), SecretStr(KEY))
    drain("score"), drain("receipts")
    yield made
    made.close()


def test_wake_ups_and_receipts_are_signed_as_they_are_sent(publisher: Publisher) -> None:
    publisher.publish([Wake("score", "mood", (1, 2))])
    publisher.reply("receipts", "c-1", {"submission_id": "ä 🦊"})
    (wake,), (receipt,) = drain("score"), drain("receipts")
    signer = Signer(SecretStr(KEY))
    assert json.loads(wake.body)[0] == ["mood", [1, 2]]
    assert signer.fault("datashunt.score", wake.body, wake.headers[HEADER]) is None
    assert signer.fault(RECEIPT, receipt.body, receipt.headers[HEADER]) is None


def test_without_a_key_nothing_is_signed() -> None:
    made = Publisher(SecretStr("memory://"))
    drain("score")
    made.publish([Wake("score", "mood", (1,))])
    (wake,) = drain("score")
    made.close()
    assert HEADER not in wake.headers


def test_with_a_key_a_worker_takes_no_remote_control() -> None:
    for key, open_to_all in ((None, True), (SecretStr(KEY), False)):
        made = configure(Celery("a", set_as_current=False), SecretStr("memory://"), key)
        assert made.conf.worker_enable_remote_control is open_to_all
