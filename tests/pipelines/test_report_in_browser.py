"""The report as a browser shows it, where one is installed."""

import pytest
from test_report import HOSTILE, make_pairs, make_prior, make_samples, make_tokenizer, make_tokens

from pipelines.report import write_report


@pytest.fixture(scope="module")
def page(chromium, tmp_path_factory) -> str:
    """A page with every section; captions and prompts are as bad as they can be."""
    folder = tmp_path_factory.mktemp("stages")
    make_pairs(folder / "pairs", HOSTILE + "unbroken" * 40)
    make_tokenizer(folder / "tokenizer")
    make_tokens(folder / "tokens")
    make_prior(folder / ("prior" + "-with-a-long-name" * 6))
    make_samples(folder / "samples", folder / "evaluation", HOSTILE + "unbroken" * 40)
    return f"file://{write_report(str(folder))}"


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_overflows_a_screen_and_nothing_is_complained_of(browser, page, width):
    browser.open(page, width)
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    widest = "Math.max(...[...document.querySelectorAll('body *')].map(e => e.getBoundingClientRect().right))"
    assert browser.run(widest) <= width
    assert browser.run("[...document.images].every(image => image.naturalWidth)")
    assert browser.problems == []


def test_the_losses_of_a_prior_are_two_lines_with_a_key(browser, page):
    browser.open(page, 1400)
    chart = "[...document.querySelectorAll('figure.chart')].find(e => e.textContent.includes('nats a token'))"
    assert browser.run(f"{chart}.querySelectorAll('polyline').length") == 2
    assert browser.run(f"[...{chart}.querySelectorAll('.key')].map(e => e.textContent.trim())") == [
        "training 0.6", "held out 1.25",
    ]  # fmt: skip
