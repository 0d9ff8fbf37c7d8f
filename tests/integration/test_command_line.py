"""The command line on real servers: what it prints, and how it exits."""

from __future__ import annotations

import gzip
import io
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from lanes import NAME, FakeLLM, World, reply
from sqlalchemy import text

from datashunt.cli import items, main
from datashunt.errors import LLMRejected
from datashunt.items import Item
from datashunt.settings import Settings
from datashunt.store import batches, migrate

FILE = """
name: sentiment
labels: [negative, neutral, positive]
instruction: Say how the writer feels.
policy: {audit_rate: 0}
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command of `datashunt` with this test's servers in the environment."""
    assert settings.database_url is not None
    assert settings.broker_url is not None
    monkeypatch.setenv("DATASHUNT_DATABASE_URL", settings.database_url.get_secret_value())
    monkeypatch.setenv("DATASHUNT_BROKER_URL", settings.broker_url.get_secret_value())
    monkeypatch.setenv("DATASHUNT_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("DATASHUNT_LLM_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["datashunt", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Ended(int(str(ended.value.code)), said.out, said.err)

    return call


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def is_one_sentence(ended: Ended, code: int, *words: str) -> bool:
    line = ended.err.strip()
    return (
        ended.code == code
        and line.startswith("datashunt: ")
        and "\n" not in line
        and "Traceback" not in line
        and all(word in line for word in words)
    )


# classifiers


def test_a_classifier_is_created_then_unchanged_then_another_version(run: Run, tmp_path: Path) -> None:
    file = write(tmp_path, "c.yaml", FILE)
    assert run("classifier", "apply", file) == Ended(0, "sentiment: created, version 1\n", "")
    assert run("classifier", "apply", file).out == "sentiment: unchanged, version 1\n"
    write(tmp_path, "c.yaml", FILE.replace("feels", "felt"))
    assert run("classifier", "apply", file).out == "sentiment: version 2\n"
    write(tmp_path, "c.yaml", FILE.replace("neutral, ", ""))
    assert "the labels changed" in run("classifier", "apply", file).out


def test_what_is_shown_can_be_applied_and_changes_nothing(run: Run, tmp_path: Path) -> None:
    run("classifier", "apply", write(tmp_path, "c.yaml", FILE))
    shown = run("classifier", "show", NAME)
    assert (
        run("classifier", "apply", write(tmp_path, "shown.yaml", shown.out)).out == "sentiment: unchanged, version 1\n"
    )
    listed = run("classifier", "list").out
    assert NAME in listed
    assert "none yet" in listed


def test_a_wrong_file_names_the_field_and_exits_2(run: Run, tmp_path: Path) -> None:
    file = write(tmp_path, "c.yaml", FILE + "threshold: 0.5\n")
    assert is_one_sentence(run("classifier", "apply", file), 2, str(file), "threshold: there is no such field")
    ended = run("classifier", "apply", tmp_path / "none.yaml")
    assert is_one_sentence(ended, 2, "none.yaml: cannot be read: No such file or directory")


def test_an_unknown_classifier_is_named_and_exits_2(run: Run) -> None:
    for command in (
        *("classifier show", "status", "wait", "results", "models list", "models rollback"),
        *("dead list", "dead retry", "review", "review --quality", "review --sample 5", "rerun"),
    ):
        assert is_one_sentence(run(*command.split(), "nobody"), 2, "there is no classifier named 'nobody'")
    assert is_one_sentence(run("models", "promote", "nobody", "1"), 2, "there is no classifier named 'nobody'")


# items


def test_a_file_of_good_items_is_submitted_once(run: Run, world: World, tmp_path: Path) -> None:
    lines = [{"id": "a", "text": "x"}, {"id": "b", "text": "y", "meta": {"n": 1}}, {"id": 3, "text": "z"}]
    file = write(tmp_path, "items.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    assert run("submit", NAME, file) == Ended(0, "3 accepted, 0 known already, 0 refused\n", "")
    assert run("submit", NAME, file).out == "0 accepted, 3 known already, 0 refused\n"
    assert [row.key for row in world.rows("SELECT key FROM items ORDER BY id")] == ["a", "b", "3"]


def test_columns_of_a_csv_file_can_be_named(run: Run, world: World, tmp_path: Path) -> None:
    file = write(tmp_path, "items.csv", 'no,body\n1,"a, b"\n2,c\n')
    assert run("submit", NAME, file, "--id", "no", "--text", "body").out.startswith("2 accepted")
    assert [row.text for row in world.rows("SELECT text FROM texts ORDER BY item_id")] == ["a, b", "c"]


def test_each_line_that_is_refused_is_named_once(run: Run, world: World, tmp_path: Path) -> None:
    file = write(tmp_path, "items.jsonl", '{"id": "a", "text": "x"}\n[]\n')
    ended = run("submit", NAME, file, "--text", "body")
    assert ended.out == "0 accepted, 0 known already, 2 refused\n"
    assert ended.err.splitlines() == [
        "line 1: missing_field: there is no field 'body'",
        "line 2: not_object: expected a JSON object, found a list",
    ]


def test_a_retention_that_nobody_set_is_said_of_whom(run: Run, world: World) -> None:
    assert is_one_sentence(run("retention", "--all"), 2, "datashunt: no classifier has a retention: set policy.")
    assert is_one_sentence(run("retention", NAME), 2, f"datashunt: {NAME} has no retention: set policy.")


HOURS = "SELECT key, round(extract(epoch FROM deadline - created_at) / 3600, 2) AS hours FROM items ORDER BY id"


def test_deadlines_come_for_all_items_or_each_has_its_own(run: Run, world: World, tmp_path: Path) -> None:
    file = write(tmp_path, "items.csv", "id,text,by\na,x,3600\nb,y,\nc,z,soon\n")
    ended = run("submit", NAME, file, "--deadline", "7200", "--deadline-column", "by")
    assert ended == Ended(1, "2 accepted, 0 known already, 1 refused\n", ended.err)
    assert ended.err.startswith("line 4: bad_deadline: expected the deadline in seconds")
    assert [(row.key, float(row.hours)) for row in world.rows(HOURS)] == [("a", 1.0), ("b", 2.0)]
    run("submit", NAME, file, "--deadline", "9000", "--deadline-column", "by")
    assert [float(row.hours) for row in world.rows(HOURS)] == [1.0, 2.0]


def test_a_deadline_may_be_a_moment(run: Run, world: World, tmp_path: Path) -> None:
    file = write(tmp_path, "items.jsonl", '{"id": "a", "text": "x", "by": "2026-05-04T12:00:00+02:00"}\n')
    assert run("submit", NAME, file, "--deadline-column", "by").code == 0
    assert world.one("SELECT deadline = '2026-05-04T10:00:00Z' FROM items")


def test_a_deadline_that_is_none_is_refused_before_anything_is_stored(run: Run, world: World, tmp_path: Path) -> None:
    file = write(tmp_path, "items.csv", "id,text\na,x\n")
    assert is_one_sentence(run("submit", NAME, file, "--deadline", "soon"), 2, "--deadline: expected")
    assert world.rows("SELECT * FROM items") == []


def test_bad_lines_are_named_and_kept_and_the_good_ones_are_taken(run: Run, world: World, tmp_path: Path) -> None:
    file = write(
        tmp_path, "items.jsonl", '{"id": "a", "text": "x"}\n{"id": "b"}\nno json\n\n{"id": "c", "text": " "}\n'
    )
    ended = run("submit", NAME, file)
    assert (ended.code, ended.out) == (1, "1 accepted, 0 known already, 3 refused\n")
    assert [line.split(": ")[:2] for line in ended.err.splitlines()] == [
        ["line 2", "missing_field"],
        ["line 3", "not_json"],
        ["line 5", "empty"],
    ]
    assert [row.reason for row in world.rows("SELECT reason FROM refusals ORDER BY position")] == [
        *("missing_field", "not_json", "empty")
    ]


def test_a_file_that_breaks_off_tells_what_was_accepted_before(
    run: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items, "CALL", 2)
    rows = "".join(f"{n},{secrets.token_hex(2000)}\n" for n in range(40))
    packed = gzip.compress(b"id,text\n" + rows.encode())
    (tmp_path / "items.csv.gz").write_bytes(packed[: len(packed) // 2])
    ended = run("submit", NAME, tmp_path / "items.csv.gz")
    assert is_one_sentence(ended, 2, "is no whole gzip file")
    stored = world.one("SELECT count(*) FROM items")
    assert stored > 0
    assert ended.out == f"{stored} accepted, 0 known already, 0 refused\n"


def test_a_file_without_a_row_is_no_error(run: Run, world: World, tmp_path: Path) -> None:
    none = Ended(0, "0 accepted, 0 known already, 0 refused\n", "")
    assert run("submit", NAME, write(tmp_path, "items.csv", "id,text\n")) == none


def test_only_the_first_refusals_are_printed(run: Run, world: World, tmp_path: Path) -> None:
    ended = run("submit", NAME, write(tmp_path, "items.jsonl", "no json\n" * 30))
    assert len(ended.err.splitlines()) == 21
    assert "… and 10 more" in ended.err


def test_an_unreadable_file_exits_2(run: Run, world: World, tmp_path: Path) -> None:
    assert is_one_sentence(run("submit", NAME, tmp_path / "none.jsonl"), 2, "cannot be read")
    assert is_one_sentence(run("submit", NAME, write(tmp_path, "items.txt", "x")), 2, "unknown kind of file")


def test_wait_exits_3_when_items_are_still_on_their_way(run: Run, world: World) -> None:
    world.submit("x", "y")
    ended = run("wait", NAME, "--timeout-s", "0")
    assert is_one_sentence(ended, 3, "2 items of sentiment are still on their way after 0 s")


def test_wait_tells_done_dead_and_held(run: Run, world: World) -> None:
    world.score("a", "b", "c")
    llm = FakeLLM([LLMRejected("no", kind="rejected"), reply()])
    world.asker(llm).run(NAME, [], stop=lambda: len(llm.prompts) == 2)
    world.change("UPDATE items SET state = 'held' WHERE state = 'asked'")
    assert run("wait", NAME) == Ended(0, "sentiment: 1 done, 1 dead, 1 held\n", "")


def test_wait_for_audits_waits_for_those_too(run: Run, world: World) -> None:
    world.apply(policy={"audit_rate": 1.0})
    world.bundle()
    world.score("positive 0.95")
    assert run("wait", NAME, "--timeout-s", "0").code == 0
    assert is_one_sentence(run("wait", NAME, "--audits", "--timeout-s", "0"), 3, "1 items")


def test_submit_and_wait_in_one_command(run: Run, world: World, tmp_path: Path) -> None:
    world.score("x")
    world.ask(FakeLLM())
    file = write(tmp_path, "items.jsonl", '{"id": "i0", "text": "x"}\n')
    assert run("submit", NAME, file, "--wait").out.splitlines()[-1] == "sentiment: 1 done, 0 dead, 0 held"


def test_submit_waits_for_its_own_items_and_no_others(
    run: Run,
    world: World,
    settings: Settings,
    logins: Mapping[str, Callable[[str], str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert settings.database_url is not None
    url = logins["producer"](settings.database_url.get_secret_value())  # whose rights are enough
    monkeypatch.setenv("DATASHUNT_DATABASE_URL", url)
    monkeypatch.setattr(items, "CALL", 1)
    world.score("x")
    world.ask(FakeLLM())
    world.submit(Item("theirs", "of another producer, and never done"))
    own = [("mine", "new"), ("i0", "x"), ("theirs", "another text")]
    file = write(tmp_path, "items.jsonl", "".join(json.dumps({"id": id, "text": said}) + "\n" for id, said in own))

    def bury() -> None:
        give_up = time.monotonic() + 60
        while not world.one("SELECT count(*) FROM items WHERE key = 'mine'") and time.monotonic() < give_up:
            time.sleep(0.01)
        world.change("UPDATE items SET state = 'dead' WHERE key = 'mine'")

    with ThreadPoolExecutor(1) as pool:
        buried = pool.submit(bury)
        ended = run("submit", NAME, file, "--wait")
        buried.result()
    assert ended.out == "1 accepted, 1 known already, 1 refused\nsentiment: 1 done, 1 dead, 0 held\n"
    assert (ended.code, world.states()) == (1, {"done": 1, "dead": 1, "queued": 1})


def test_results_are_json_lines_and_go_on_after_a_cursor(run: Run, world: World) -> None:
    world.bundle()
    world.score(*["positive 0.95 ä"] * 3)
    lines = read_all(run, 3)
    assert {line["id"] for line in lines} == {"i0", "i1", "i2"}
    assert {line["source"] for line in lines} == {"small"}
    rest = [json.loads(line) for line in run("results", NAME, "--after", lines[0]["cursor"]).out.splitlines()]
    assert rest == lines[1:]
    assert is_one_sentence(run("results", NAME, "--after", "soon"), 2, "'soon' is no cursor")


def read_all(run: Run, count: int) -> list[dict[str, Any]]:
    """Results appear once no older transaction of the server is open."""
    for _ in range(1000):
        lines = run("results", NAME).out.splitlines()
        if len(lines) == count:
            return [json.loads(line) for line in lines]
    raise AssertionError(f"{count} results did not appear")


def test_status_is_a_table_and_a_document(run: Run, world: World) -> None:
    world.bundle()
    world.score("positive 0.95", "negative 0.5")
    world.ask(FakeLLM())
    found = json.loads(run("status", NAME, "--json").out)
    assert (found["classifier"], found["bundle"], found["threshold"], found["spec_version"]) == (NAME, 1, 0.9, 1)
    assert (found["items"], found["states"], found["sources"]) == (2, {"done": 2}, {"small": 1, "llm": 1})
    assert (found["llm_share"], found["backlog"]) == (0.5, 0)
    assert json.loads(run("status", "--json").out) == {NAME: found}
    table = run("status").out
    assert NAME in table
    assert "50.0%" in table


def test_status_shows_the_days_budget(run: Run, world: World) -> None:
    world.bundle()
    world.apply(policy={"mode": "budget", "calls_per_day": 1_000, "audit_rate": 0.0})
    fresh = json.loads(run("status", NAME, "--json").out)["budget"]
    assert (fresh["used"], fresh["reserved"], fresh["threshold"]) == (0, 0, None)
    world.score("positive 0.95", "negative 0.5")
    world.ask_once(FakeLLM())
    found = json.loads(run("status", NAME, "--json").out)["budget"]
    assert (found["unit"], found["per_day"], found["used"], found["reserved"]) == ("calls", 1_000, 1, 1)
    assert (found["items"], found["threshold"], found["timezone"], found["at_cap"]) == (2, 1.0, "UTC", "keep")
    said = f"{NAME}: budget of {found['day']} (UTC): 1 of 1,000 calls used, 1 reserved, threshold 1.000"
    assert said in run("status").out
    world.apply(policy={"mode": "budget", "usd_per_day": 3, "audit_rate": 0.0})
    assert "$0.0000 of $3.0000 used, $0.0000 reserved, threshold none yet" in run("status").out


def test_a_budget_that_no_call_can_be_counted_against_is_not_applied(run: Run, world: World, tmp_path: Path) -> None:
    wrong = FILE.replace("{audit_rate: 0}", "{mode: budget, usd_per_day: 3}") + "llm: {model: mine}\n"
    ended = run("classifier", "apply", write(tmp_path, "wrong.yaml", wrong))
    assert is_one_sentence(ended, 2, "policy.usd_per_day needs the price of mine", "llm.input_price")
    assert world.known().version == 1


def test_status_shows_the_batches_that_are_under_way(run: Run, world: World) -> None:
    world.apply(llm={"batch": "only"})
    world.score("negative 0.5")
    assert json.loads(run("status", NAME, "--json").out)["batches"] == []
    with world.store.begin() as tx:
        batches.plan(tx, world.known(), gather_s=0.0)
    (found,) = json.loads(run("status", NAME, "--json").out)["batches"]
    assert (found["state"], found["requests"]) == ("building", 0)
    assert f"{NAME}: batch {found['id']}: 0 asks, building, 0.0 h old" in run("status").out.splitlines()


# models and dead letters


def test_spend_is_a_table_and_a_document(run: Run, world: World) -> None:
    world.bundle()
    for key in ("a", "b"):
        list(world.scorer().run(NAME, world.submit(Item(key, "negative 0.5 again"))[1][0].ids))
        world.ask(FakeLLM())
    table = run("spend")
    assert table.code == 0
    assert all(word in table.out for word in ("sentiment", "0.000120", "reused", "unknown"))
    (row,) = json.loads(run("spend", NAME, "--by", "model", "--json").out)
    assert row == {
        "classifier": NAME,
        "model": "teacher-1",
        "calls": 1,
        "tokens_in": 100,
        "tokens_cached": 0,
        "tokens_out": 10,
        "usd": 0.00012,
        "reused": 1,
        "unknown": 0,
    }
    assert is_one_sentence(run("spend", "nobody"), 2, "nobody")
    assert run("spend", "--by", "week").code == 2


def test_bundles_are_listed_promoted_and_rolled_back(run: Run, world: World) -> None:
    world.bundle()
    world.bundle(serve=False)
    assert run("models", "promote", NAME, "2").out == "sentiment: bundle 2 serves\n"
    listed = json.loads(run("models", "list", NAME, "--json").out)
    assert [(one["version"], one["serves"], one["state"]) for one in listed] == [
        (1, False, "promoted"),
        (2, True, "promoted"),
    ]
    assert "90.0%" in run("models", "list", NAME).out
    assert run("models", "rollback", NAME).out == "sentiment: bundle 1 serves again\n"
    assert is_one_sentence(run("models", "rollback", NAME), 1, "nothing served before bundle 1")
    assert is_one_sentence(run("models", "promote", NAME, "9"), 1, "sentiment has no bundle 9")


def test_files_of_bundles_that_nobody_needs_are_removed(run: Run, world: World, tmp_path: Path) -> None:
    for number in range(1, 4):
        world.bundle()
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "manifest.json").write_text("{}")
    with world.admin.begin() as tx:
        tx.execute(
            text("UPDATE bundles SET uri = :folder || version, created_at = created_at - interval '2 days'"),
            {"folder": f"{tmp_path}/"},
        )
    assert run("models", "prune", NAME).out == "sentiment: every bundle's files are needed\n"
    assert run("models", "prune", NAME, "--keep", "1", "--dry-run").out == (
        "sentiment: the files of bundles 1, 2 would be removed\n"
    )
    assert (tmp_path / "1").exists()
    assert run("models", "prune", NAME, "--keep", "1").out == "sentiment: the files of bundles 1, 2 removed\n"
    assert [path.name for path in tmp_path.iterdir() if path.name.isdigit()] == ["3"]
    assert run("models", "prune", NAME, "--keep", "1").out == "sentiment: every bundle's files are needed\n"
    assert run("models", "list", NAME).out.count("files removed") == 2
    assert is_one_sentence(run("models", "rollback", NAME), 1, "the files of bundle 2 of sentiment were removed")


def test_nothing_is_replayed_where_its_messages_could_not_go(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.score("a")
    world.ask(FakeLLM([LLMRejected("no", kind="rejected")]))
    monkeypatch.setenv("DATASHUNT_BROKER_URL", "nonsense")
    assert is_one_sentence(run("dead", "retry", NAME), 2, "DATASHUNT_BROKER_URL: expected")
    assert world.states() == {"dead": 1}


def test_dead_letters_are_listed_and_replayed(run: Run, world: World) -> None:
    world.score("a", "b")
    world.ask(FakeLLM([LLMRejected("too long (413)", kind="context_too_long")]))
    found = json.loads(run("dead", "list", NAME, "--json").out)
    assert [(one["id"], one["kind"], one["reason"]) for one in found] == [
        ("i0", "item", "context_too_long"),
        ("i1", "item", "context_too_long"),
    ]
    assert "too long (413)" in run("dead", "list", NAME).out
    assert is_one_sentence(run("dead", "retry", NAME, "i0", "i7"), 2, "sentiment has no dead letter of i7")
    assert run("dead", "retry", NAME, "i0").out == "1 replayed\n"
    assert is_one_sentence(run("dead", "retry", NAME, "i0"), 2, "no dead letter of i0")
    assert run("dead", "retry", NAME).out == "1 replayed\n"
    assert world.states() == {"asked": 2}


# database and servers


def test_the_database_is_upgraded_and_taken_back(
    run: Run, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATASHUNT_DATABASE_URL", empty_database_url)
    assert is_one_sentence(run("status"), 1, "run `datashunt db upgrade`")
    assert run("db", "upgrade").out.startswith("database: empty → ")
    assert run("db", "upgrade").out.startswith("database: already at ")
    assert "this release: " in run("db", "current").out
    assert is_one_sentence(run("db", "downgrade", "nowhere", "--yes"), 2, "cannot be brought to 'nowhere'")
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert is_one_sentence(run("db", "upgrade"), 2, "at 9999")
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = %s", [migrate.head()])
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert run("db", "downgrade", "base").code == 130
    assert run("db", "upgrade").out.startswith("database: already at ")
    assert run("db", "downgrade", "base", "--yes").out.endswith("→ empty\n")


def test_doctor_exits_1_and_names_what_is_bad(run: Run, world: World) -> None:
    ended = run("doctor")
    assert ended.code == 1
    lines = ended.out.splitlines()
    assert [line.split()[0] for line in lines if "LLM endpoint" in line] == ["bad"]
    assert [line.split()[0] for line in lines if "PostgreSQL" in line] == ["ok"]


def test_a_server_that_cannot_be_reached_is_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASHUNT_DATABASE_URL", "postgresql://app:hidden@127.0.0.1:9/none")
    ended = run("status")
    assert is_one_sentence(ended, 1, "PostgreSQL cannot be used")
    assert "hidden" not in ended.err


def test_a_program_sees_the_same_as_a_person(run: Run, world: World) -> None:
    """The installed command, in a process of its own."""
    command = [sys.executable, "-m", "datashunt", "status", "nobody"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("datashunt: there is no classifier named 'nobody'")
    assert done.stderr.count("\n") == 1


def test_debug_shows_the_traceback(run: Run, world: World) -> None:
    command = [sys.executable, "-m", "datashunt", "--debug", "status", "nobody"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "UnknownClassifier" in done.stderr
