"""The whole loop: asked at first, learned, kept; and producers and operators who reach it from outside."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis
from celery import Celery
from sqlalchemy import text

from datashunt.demo.run import environment
from tests.acceptance.conftest import System, kept_states, plain_items, run_of, until

QUICK = {"every_s": 0.5, "min_new_answers": 150, "max_answers": 150}


def test_what_the_llm_answered_is_learned_and_then_kept_even_if_a_distillation_is_killed(system: System) -> None:
    system.apply(policy={"threshold": 0.6, "audit_rate": 0.2}, distil=QUICK, small_model={"max_tokens": 16})
    system.start("score")
    system.start("llm")
    victim = system.start("distil")
    system.client.submit("tone", plain_items(600))
    until(lambda: kept_states(system) != [], "a run that has written down where it stands")
    whole = run_of(kept_states(system)[0])
    victim.kill()
    victim.wait()
    opening = system.rows(
        "SELECT d.state, recipe FROM distillations d JOIN bundles b ON b.id = bundle_id ORDER BY d.id"
    )
    assert opening[0] == ("promoted", "head"), "it serves while the whole lesson is learned"
    system.start("distil")
    until(lambda: _of_run(system, whole).state in {"promoted", "rejected"}, "the whole lesson's end", timeout_s=200)
    assert _of_run(system, whole).attempts >= 2
    until(lambda: system.done() == 600, "every item")
    assert '"stage": "resume"' in system.log("distil", -1), "the second worker goes on where the first was"
    until(lambda: _kept_one(system), "a running worker to load the new bundle")
    system.client.submit("tone", plain_items(200, start=600))
    items = int(system.one("SELECT count(*) FROM items"))
    until(lambda: system.done() == items, "the rest")
    until(lambda: system.one("SELECT count(*) FROM asks WHERE state <> 'answered'") == 0, "the audits")
    system.assert_sound(items)
    kept = system.rows("SELECT key, label FROM items WHERE source = 'small' AND key ~ '^p[0-9]'")
    assert len(kept) > 100
    expected = {f"p{n}": ("negative", "neutral", "positive")[n % 3] for n in range(800)}
    assert sum(expected[row.key] == row.label for row in kept) >= 0.9 * len(kept)
    assert system.one("SELECT count(*) FROM asks WHERE reason = 'audit'") > 0
    held_out = system.rows("SELECT DISTINCT role FROM answers ORDER BY role")
    assert [row.role for row in held_out] == ["fit", "judge", "train"]


def _of_run(system: System, row: int) -> Any:
    return system.rows("SELECT state, attempts FROM distillations WHERE id = :row", row=row)[0]


def _kept_one(system: System) -> bool:
    """Submit one more item; whether any was kept by the small model so far."""
    probe = f"probe-{uuid4().hex}"
    system.client.submit("tone", [{"id": probe, "text": "what a wonderful and lovely thing"}])
    until(lambda: system.client.result("tone", probe) is not None, "the probe")
    return bool(system.one("SELECT count(*) FROM items WHERE source = 'small'"))


def test_a_producer_that_reaches_only_the_broker_gets_its_receipt(system: System) -> None:
    system.apply()
    system.start("score")
    system.start("llm")
    producer = Celery(broker=system.broker.url, set_as_current=False)
    replies = f"replies-{uuid4().hex}"
    items = [{"id": "a", "text": "one"}, {"id": "b", "text": "  "}, {"id": "a", "text": "another"}, 7]
    for _ in range(2):  # sent twice, as a producer does that got no receipt in time
        producer.send_task(
            "datashunt.submit",
            args=["call-1", "tone", items],
            queue="intake",
            reply_to=replies,
            correlation_id="c1",
        )
    producer.send_task(
        "datashunt.submit",
        args=["call-2", "nobody", items],
        queue="intake",
        reply_to=replies,
    )
    producer.send_task("datashunt.sumbit", args=["call-3", "tone", [{"id": "c", "text": "hidden"}]], queue="intake")
    with producer.connection_for_read() as connection:
        queue = connection.SimpleQueue(replies)
        receipts = [queue.get(timeout=60).payload for _ in range(3)]
        queue.close()
    producer.close()
    accepted = [one for one in receipts if one["submission_id"] == "call-1"]
    assert [(one["accepted"], one["known"], one["error"]) for one in accepted] == [(1, 0, None)] * 2
    assert [entry["reason"] for entry in accepted[0]["refused"]] == ["empty", "id_conflict", "not_an_item"]
    assert "no classifier named 'nobody'" in next(one["error"] for one in receipts if one["submission_id"] == "call-2")
    until(lambda: system.done() == 1, "the accepted item")
    stored = system.client.receipt("call-1")
    assert stored is not None
    assert stored.accepted == 1
    until(lambda: "datashunt.sumbit" in system.logs(), "the message that nobody knows to be thrown away")
    assert "hidden" not in system.logs()


def test_the_producer_of_the_operations_page_sends_again_until_it_has_its_receipt(system: System) -> None:
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    definition, _, call = code.partition("\nreceipt = ")
    producer: dict[str, Any] = {}
    exec(definition.replace("redis://:password@host:6379/0", system.broker.url), producer)
    answers: list[Any] = []
    impatient = call.replace("])", "], resend_after_s=0.5)")
    system.apply(name="tickets")
    threading.Thread(target=lambda: answers.append(eval(impatient, producer)), daemon=True).start()
    with redis.Redis.from_url(system.broker.url) as broker:
        until(lambda: broker.llen("intake") >= 2, "the submission to be sent again")
    system.start("llm")
    until(lambda: answers != [], "the receipt")
    producer["app"].close()
    receipt = answers[0]
    assert (receipt["submission_id"], receipt["error"], receipt["refused"]) == ("orders-2026-05-04", None, [])
    assert receipt["accepted"] == 1
    assert system.rows("SELECT key FROM items") == [("4711",)]
    stored = system.client.receipt("orders-2026-05-04")
    assert stored is not None
    assert stored.to_json() == receipt


def test_a_submission_over_the_broker_waits_in_the_queue_while_the_database_is_away(system: System) -> None:
    system.apply()
    with system.store.begin() as tx:
        tx.execute(text("ALTER TABLE items RENAME TO elsewhere"))
    system.start("llm")
    with Celery(broker=system.broker.url, set_as_current=False) as producer:
        items = [{"id": "a", "text": "one"}]
        producer.send_task("datashunt.submit", args=["call-1", "tone", items], queue="intake")
    until(lambda: "submission_not_stored" in system.logs(), "a worker to try in vain")
    with system.store.begin() as tx:
        tx.execute(text("ALTER TABLE elsewhere RENAME TO items"))
    until(lambda: system.client.receipt("call-1") is not None, "the receipt")
    assert system.rows("SELECT key, state FROM items") == [("a", "queued")]


def test_a_worker_with_wrong_settings_ends_with_code_2_and_one_sentence(system: System) -> None:
    wrong = {"DATASHUNT_SCORE_LEASE_S": "-1", "DATASHUNT_LOG_LEVEL": "LOUD"}
    worker = system.start("score", **wrong)
    assert worker.wait(timeout=60) == 2
    assert "DATASHUNT_SCORE_LEASE_S: " in system.logs()
    assert "DATASHUNT_LOG_LEVEL: " in system.logs()
    blind = system.start("llm", DATASHUNT_DATABASE_URL="nowhere")
    assert blind.wait(timeout=60) == 2
    assert "DATASHUNT_DATABASE_URL is no URL" in system.logs()
    assert "Traceback" not in system.logs()


def test_the_command_line_submits_waits_and_reads_against_running_workers(system: System, tmp_path: Path) -> None:
    system.apply()
    system.start("score")
    system.start("llm")
    file = tmp_path / "items.jsonl"
    lines = [json.dumps(item) for item in plain_items(30)]
    file.write_text("\n".join([*lines, '{"id": "x"}', "no json"]) + "\n")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        role = "producer" if words[0] == "submit" else "reader"
        env = {**os.environ, **environment(system.as_role(role))}
        command = [sys.executable, "-m", "datashunt", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)

    submitted = run("submit", "tone", str(file))
    assert submitted.returncode == 1
    assert "30 accepted, 0 known already, 2 refused" in submitted.stdout
    assert "line 31: missing_field" in submitted.stderr
    assert "line 32: not_json" in submitted.stderr
    assert run("wait", "tone", "--timeout-s", "60", "--audits").returncode == 0
    # a result appears when no older transaction of the server is open any more, be it only a tick's
    until(lambda: len(run("results", "tone").stdout.splitlines()) == 30, "all results to be certain")
    read = [json.loads(line) for line in run("results", "tone").stdout.splitlines()]
    assert {one["id"] for one in read} == {f"p{n}" for n in range(30)}
    assert {one["source"] for one in read} == {"llm"}
    assert all(one["cost_usd"] > 0 and one["probabilities"] for one in read)
    assert run("results", "tone", "--after", read[-1]["cursor"]).stdout == ""
    state = json.loads(run("status", "tone", "--json").stdout)
    assert (state["states"], state["llm_share"], state["backlog"]) == ({"done": 30}, 1.0, 0)
    for words in (("certificate", "tone"), ("spend", "tone"), ("models", "list", "tone"), ("dead", "list", "tone")):
        assert run(*words).returncode == 0, words
    assert "permission denied" in run("dead", "retry", "tone").stderr
