"""The HTTP of the LLM lane alone, in a process of its own: what is left of a call's CPU without a lane.

`ours` is the lane's client: worker threads that hand each call to one event loop. Beside it the same requests through
the provider's synchronous client in threads, and as tasks of one event loop with no threads at all.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import openai
import psutil

from benchmarks.texts import texts
from datashunt import classifier, prompts
from datashunt.llm import LLM
from datashunt.prompts import Prompt

THREADS = 16
MODEL = "simulated"
NO_KEY = "none"


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU of a call in milliseconds, and resident memory of the process at the end in MiB."""

    cpu_ms: float
    mib: float


def cost(url: str, calls: int, *, how: str = "ours", at_once: int = THREADS) -> Cost:
    """What a call costs with so many at once."""
    argv = [sys.executable, "-m", "benchmarks.llm_calls", url, str(calls), how, str(at_once)]
    cpu_ms, mib = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()
    return Cost(float(cpu_ms), float(mib))


def _measure(url: str, calls: int, how: str, at_once: int) -> Cost:
    spec = classifier.parse({"name": "benchmark", "labels": ["a", "b", "c"], "instruction": "Choose a label."})
    warm_up = 4 * at_once
    asked = [prompts.render(spec, text) for text in texts(calls + warm_up, seed=5)]
    run = {"ours": _ours, "sync": _sync, "tasks": _tasks}[how](url, at_once)
    run(asked[:warm_up])
    before = time.process_time()
    run(asked[warm_up:])
    cpu_ms = (time.process_time() - before) / calls * 1e3
    return Cost(cpu_ms, psutil.Process().memory_info().rss / 2**20)


def _ours(url: str, at_once: int) -> Callable[[Sequence[Prompt]], object]:
    client, threads = LLM(url, None), ThreadPoolExecutor(at_once)
    return lambda asked: list(threads.map(lambda one: client.ask(one, MODEL, deadline_s=60.0, api="chat"), asked))


def _sync(url: str, at_once: int) -> Callable[[Sequence[Prompt]], object]:
    client, threads = openai.OpenAI(base_url=url, api_key=NO_KEY, max_retries=0), ThreadPoolExecutor(at_once)
    return lambda asked: list(threads.map(lambda one: client.chat.completions.create(**_body(one)), asked))


def _tasks(url: str, at_once: int) -> Callable[[Sequence[Prompt]], object]:
    client, loop = openai.AsyncOpenAI(base_url=url, api_key=NO_KEY, max_retries=0), asyncio.new_event_loop()

    async def all_of(asked: Sequence[Prompt]) -> None:
        limit = asyncio.Semaphore(at_once)

        async def one(prompt: Prompt) -> None:
            async with limit:
                await client.chat.completions.create(**_body(prompt))

        await asyncio.gather(*map(one, asked))

    return lambda asked: loop.run_until_complete(all_of(asked))


def _body(prompt: Prompt) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": list(prompt.messages),
        "response_format": prompt.response_format,
        "logprobs": True,
        "top_logprobs": len(prompt.answers) + 2,
        "temperature": 0,
        "max_tokens": prompt.max_tokens,
    }


if __name__ == "__main__":
    found = _measure(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    sys.stdout.write(f"{found.cpu_ms} {found.mib}\n")
    sys.stdout.flush()
