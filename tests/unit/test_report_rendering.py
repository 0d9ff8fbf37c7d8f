from __future__ import annotations

import base64
import re
import struct
import sys
from collections.abc import Callable
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from datashunt import report
from datashunt.errors import UsageError
from datashunt.items import ItemState, Source
from datashunt.report import About, BundleRecord, DistillationRecord, ItemRecord, Report
from datashunt.report.words import headline, percent, subline, usd

SIMULATED = About("sentiment", "reviews & tweets", "gpt-4.1-mini", simulated=True)
REAL = About("sentiment", "reviews & tweets", "gpt-4.1-mini", simulated=False)


def stream(items: int, *, gold: bool = True, teacher: bool = True) -> list[ItemRecord]:
    """The first half is asked and right; the second is kept, every fifth item wrong."""
    return [
        ItemRecord(
            id=f"i{n}",
            position=n,
            state=ItemState.DONE,
            label="b" if n >= items // 2 and n % 5 == 0 else "a",
            source=Source.LLM if n < items // 2 else Source.SMALL,
            bundle=None if n < items // 2 else 1,
            small_label="a",
            escalated=n < items // 2,
            audited=n % 20 == 1,
            llm_label="a" if n < items // 2 or n % 20 == 1 else None,
            teacher="a" if teacher else None,
            gold="a" if gold else None,
        )
        for n in range(items)
    ]


def made(records: list[ItemRecord]) -> Report:
    half = len(records) // 2
    promoted = DistillationRecord(half, "promoted", "no worse <b>", 1, "full", 300, 60, 0.9, None, 4.2)
    failed = DistillationRecord(half + 1, "failed", "out of memory", None, None, 300, 0, None, None, 1.0)
    return report.build(
        records,
        llm_calls=half,
        cost_usd=Decimal("0.25"),
        cost_if_all_llm_usd=Decimal("0.5"),
        bundles=[BundleRecord(1, "full", 0.9)],
        distillations=[promoted, failed] if records else [],
        seconds=61.0,
    )


class TestSeries:
    def test_each_point_is_a_mean_over_the_items_before_it(self) -> None:
        drawn = report.series(stream(1000), window=100)
        at = dict(zip(drawn.items.tolist(), drawn.llm_share.tolist(), strict=True))
        assert (at[1], at[500]) == (1.0, 1.0)
        assert at[550] == pytest.approx(0.5 + 0.05 * 0.5, abs=0.011)
        assert at[1000] == pytest.approx(0.05)

    def test_accuracy_waits_for_half_a_window(self) -> None:
        drawn = report.series(stream(1000), window=100)
        assert drawn.accuracy is not None
        assert drawn.llm_accuracy is not None
        assert np.flatnonzero(~np.isnan(drawn.accuracy))[0] == 49
        assert drawn.accuracy[-1] == pytest.approx(0.8)
        assert drawn.llm_accuracy[-1] == 1.0

    def test_the_llm_alone_is_drawn_only_where_all_its_labels_are_known(self) -> None:
        drawn = report.series(stream(1000, teacher=False))
        assert drawn.accuracy is not None
        assert drawn.llm_accuracy is None

    def test_without_gold_there_is_no_accuracy_to_draw(self) -> None:
        assert report.series(stream(1000, gold=False)).accuracy is None

    def test_a_long_stream_is_thinned_out_and_keeps_both_ends(self) -> None:
        drawn = report.series(stream(20_000))
        assert len(drawn.items) == 1_500
        assert (drawn.items[0], drawn.items[-1]) == (1, 20_000)
        assert len(drawn.items) == len(drawn.llm_share)


class TestPicture:
    @pytest.mark.parametrize(
        "records",
        [
            stream(600),
            stream(600, teacher=False),
            stream(600, gold=False),
            stream(3),
            [],
            [ItemRecord("i0", 0, ItemState.QUEUED)],
        ],
        ids=["whole", "real llm", "no gold", "few", "none", "nothing done"],
    )
    def test_a_png_of_1600_by_900_comes_out(self, tmp_path: Path, records: list[ItemRecord]) -> None:
        path = tmp_path / "report.png"
        report.write_png(made(records), report.series(records), SIMULATED, path)
        head = path.read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", head[16:24]) == (1600, 900)

    def test_the_same_run_gives_the_same_bytes(self, tmp_path: Path) -> None:
        records = stream(300)
        for name in ("a.png", "b.png"):
            report.write_png(made(records), report.series(records), SIMULATED, tmp_path / name)
        assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()

    def test_without_matplotlib_it_says_what_to_install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(UsageError, match=r"pip install .*\.\[demo\]"):
            report.write_png(made(stream(9)), report.series(stream(9)), REAL, tmp_path / "a.png")


class _Page(HTMLParser):
    """Collects tags, the addresses that a browser would fetch, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data"}]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def page(tmp_path: Path) -> Callable[[Report, About], str]:
    picture = tmp_path / "report.png"
    picture.write_bytes(b"\x89PNG fake")

    def write(figures: Report, about: About) -> str:
        report.write_html(figures, about, picture, tmp_path / "report.html")
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return write


class TestPage:
    def test_a_browser_fetches_nothing(self, page: Callable[[Report, About], str]) -> None:
        html = page(made(stream(100)), SIMULATED)
        assert [address[:22] for address in _Page(html).addresses] == ["data:image/png;base64,"]
        assert not re.search(r"@import|url\(|<script|<link|https?://", html)

    def test_the_picture_is_inside(self, page: Callable[[Report, About], str]) -> None:
        assert base64.b64encode(b"\x89PNG fake").decode() in page(made(stream(100)), REAL)

    def test_it_says_whether_a_real_llm_was_called(self, page: Callable[[Report, About], str]) -> None:
        simulated, real = (_Page(page(made(stream(100)), about)).text for about in (SIMULATED, REAL))
        assert "No LLM was called." in simulated
        assert "LLM: simulated, at the prices of gpt-4.1-mini" in simulated
        assert "No LLM was called" not in real
        assert "simulat" not in real
        assert "LLM: gpt-4.1-mini" in real

    def test_every_plain_figure_and_each_distillation_and_bundle_is_there(
        self, page: Callable[[Report, About], str]
    ) -> None:
        figures = made(stream(1000))
        text = _Page(page(figures, SIMULATED)).text
        for name, value in figures.items():
            assert isinstance(value, list) or name in text
        for shown in ("bundle 1, promoted", "no worse <b>", "failed", "out of memory", "1,000"):
            assert shown in text

    def test_words_from_outside_are_escaped(self, page: Callable[[Report, About], str]) -> None:
        about = About("x<script>", "<img src=x>", "$llm & co", simulated=True)
        parsed = _Page(page(made(stream(100)), about))
        assert "script" not in parsed.tags
        assert parsed.tags.count("img") == 1
        assert "$llm & co" in parsed.text

    def test_an_empty_run_has_a_page_too(self, page: Callable[[Report, About], str]) -> None:
        assert "None ended." in _Page(page(made([]), REAL)).text


class TestWords:
    def test_the_headline_compares_the_first_and_the_last_tenth(self) -> None:
        assert headline(made(stream(1000))) == "The LLM is asked about 100% of the first tenth, 5% of the last"
        assert headline(made([])) == "No items"

    def test_the_line_below_gives_items_accuracy_and_cost(self) -> None:
        assert subline(made(stream(1000))) == (
            "1,000 items  ·  accuracy 90.0% (the LLM alone: 100.0%)  ·  cost $0.25 (all asked: $0.50)"
        )

    @pytest.mark.parametrize(
        ("amount", "text"),
        [(0.0, "$0.00"), (0.25, "$0.25"), (1234.5, "$1,234.50"), (0.0123, "$0.012"), (5.2e-05, "$0.000052")],
    )
    def test_money_keeps_two_digits_that_matter(self, amount: float, text: str) -> None:
        assert usd(amount) == text

    def test_an_unknown_share_is_not_zero(self) -> None:
        assert (percent(None), percent(0.0), percent(0.1234)) == ("n/a", "0.0%", "12.3%")
