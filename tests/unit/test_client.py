"""The client before it reaches any server, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import SecretStr

import datashunt
from datashunt import Client
from datashunt.errors import BrokerError, SettingsError, UsageError
from datashunt.items import Item, Receipt, Refusal, Wake
from datashunt.settings import Settings


def test_a_missing_server_is_named_before_anything_is_stored() -> None:
    with Client(Settings()) as client, pytest.raises(SettingsError, match="DATASHUNT_BROKER_URL is not set"):
        client.submit("mood", [])
    with (
        Client(Settings(broker_url=SecretStr("memory://"))) as client,
        pytest.raises(SettingsError, match="DATASHUNT_DATABASE_URL is not set"),
    ):
        client.submit("mood", [])


def test_a_wrong_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASHUNT_THREADS", "many")
    with pytest.raises(SettingsError, match="DATASHUNT_THREADS"):
        Client()


class FakeRuntime:
    """Keeps what is submitted; its broker is away."""

    def __init__(self) -> None:
        self.intake = self.publisher = self
        self.settings = Settings()
        self.submissions: list[str] = []

    def submit(self, classifier: str, items: object, submission_id: str) -> tuple[Receipt, list[Wake]]:
        self.submissions.append(submission_id)
        return Receipt(submission_id, classifier, 1, 0), [Wake("score", classifier, (1,))]

    def publish(self, wakes: object) -> None:
        raise BrokerError("away")


def test_accepted_means_committed_even_if_the_broker_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(Settings())
    made = FakeRuntime()
    monkeypatch.setattr(client, "_runtime", made)
    assert client.submit("mood", [{"id": "a", "text": "x"}], submission_id="s1").accepted == 1
    client.submit("mood", [])
    assert made.submissions[0] == "s1"
    assert made.submissions[1] != "s1"


def test_the_package_names_what_it_offers() -> None:
    assert all(getattr(datashunt, name) is not None for name in datashunt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = datashunt.nothing


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("datashunt", ("sqlalchemy", "celery", "torch", "openai")),
        ("datashunt.client", ("torch", "transformers", "openai", "matplotlib")),
        ("datashunt.cli", ("torch", "transformers", "matplotlib")),
    ],
)
def test_light_processes_load_nothing_heavy(module: str, heavy: tuple[str, ...]) -> None:
    script = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ("12", "expected a list of ids, found one str"),
        (b"12", "expected a list of ids, found one bytes"),
        (12, "expected a list of ids, found one int"),
        ([1], "expected the id as text, found int"),
        (["a", "b", ""], r"the id is empty \(entry 2 of ids, from 0\)"),
        (["a\0b"], "the id holds a NUL byte"),
        (["\ud800"], "no valid Unicode"),
    ],
)
def test_what_is_no_list_of_ids_is_refused_before_anything_is_read_or_forgotten(ids: Any, said: str) -> None:
    client = Client(Settings())
    with pytest.raises(UsageError, match=said):
        client.forget("mood", ids)
    with pytest.raises(UsageError, match=said):
        client.wait("mood", ids, 0)
    with pytest.raises(UsageError, match=said):
        client.results_of("mood", ids)


@pytest.mark.parametrize("id", [1, None, "", "a\0b"])
def test_what_can_be_no_id_is_refused_before_anything_is_read(id: Any) -> None:
    client = Client(Settings())
    with pytest.raises(UsageError, match="the id"):
        client.result("mood", id)
    with pytest.raises(UsageError, match="the id"):
        client.receipt(id)


@pytest.mark.parametrize(
    ("items", "kind"),
    [
        ({"id": "a", "text": "x"}, "dict"),
        ("some text", "str"),
        (b"some text", "bytes"),
        (Item("a", "x"), "Item"),
        (Refusal(0, "a", "empty", ""), "Refusal"),
        (None, "NoneType"),
    ],
)
def test_one_item_is_no_list_of_items(items: Any, kind: str) -> None:
    with pytest.raises(UsageError, match=f"items: expected a list of items, found one {kind}$"):
        Client(Settings()).submit("mood", items)
