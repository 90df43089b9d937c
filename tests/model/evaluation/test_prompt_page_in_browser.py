"""The page as a browser shows it, where one is installed."""

import numpy as np
import pytest
from sample_directories import make_samples

from model.evaluation.evaluate import evaluate
from model.evaluation.evaluate_config import EvaluateConfig

HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>" + "unbroken" * 40
PROMPTS = [
    (HOSTILE, "Animals", "Complex"),
    *[(f"prompt number {n} of a cat", ("Animals", "Vehicles")[n % 2], ("Basic", "Quantity")[n % 2]) for n in range(30)],
]
SHOWN = "[...document.querySelectorAll('.card')].filter(card => !card.hidden)"
LARGE = "document.getElementById('large').getAttribute('src').replace(/.*pictures/, 'pictures')"
WIDTHS = "[document.documentElement.scrollWidth, innerWidth]"


@pytest.fixture(scope="module")
def page(chromium, tmp_path_factory) -> str:
    """Thirty-one prompts, two models, two samples each; the first model's name is a long one."""
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    models = {}
    for name in ("a-model-with-" + "a-very-long-name-" * 5, "750M"):
        pictures = list(rng.integers(0, 256, (2 * len(PROMPTS), 8, 8, 3), np.uint8))
        models[name] = make_samples(folder / name[:4], PROMPTS, copies=2, pictures=pictures)
    values = {"output": str(folder / "evaluation"), "page": {"models": models, "title": HOSTILE}, "device": "cpu"}
    evaluate(EvaluateConfig.model_validate(values))
    return f"file://{folder}/evaluation/prompts.html"


def test_nothing_overflows_a_narrow_screen_and_only_pictures_near_it_are_loaded(browser, page):
    browser.open(page, 400)
    browser.wait("document.images[0].naturalWidth === 8")
    assert browser.run(WIDTHS) == [400, 400]
    widest = "Math.max(...[...document.querySelectorAll('.card *, form *')].map(e => e.getBoundingClientRect().right))"
    assert browser.run(widest) <= 400
    loaded = browser.run("[...document.images].filter(image => image.naturalWidth).length")
    assert 4 <= loaded < browser.run("document.images.length") / 2
    browser.click(".shot")
    browser.wait("document.getElementById('viewer').open")
    assert browser.run("document.getElementById('viewer').scrollWidth") <= 400
    assert browser.run("document.querySelector('.told .prompt').getBoundingClientRect().right") <= 400


def test_nothing_overflows_a_wide_screen(browser, page):
    browser.open(page, 1280)
    browser.wait("document.images[0].naturalWidth === 8")
    assert browser.run("document.documentElement.scrollWidth <= innerWidth && innerWidth === 1280")
    widest = "Math.max(...[...document.querySelectorAll('.card *, form *')].map(e => e.getBoundingClientRect().right))"
    assert browser.run(widest) <= 1280


def test_strangers_texts_run_nothing_and_the_policy_forbids_nothing_of_the_page(browser, page):
    browser.open(page, 900)
    browser.wait("document.images[0].naturalWidth === 8")
    browser.click(".shot")
    browser.wait("document.getElementById('large').naturalWidth === 8")
    assert browser.run("window.hacked === undefined")
    assert browser.run("document.querySelector('.told .prompt').textContent") == HOSTILE
    assert browser.problems == []


def test_a_picture_is_large_on_click_and_the_keys_go_through_them(browser, page):
    browser.open(page, 900)
    browser.click(".card:nth-child(2) .model:nth-child(1) .shot:nth-child(2)")
    browser.wait("document.getElementById('viewer').open")
    assert browser.run(LARGE) == "pictures/0/00001-001.png"
    for key, wanted in (
        ("ArrowRight", "pictures/1/00001-000.png"),
        ("ArrowRight", "pictures/1/00001-001.png"),
        ("ArrowRight", "pictures/0/00002-000.png"),
        ("ArrowLeft", "pictures/1/00001-001.png"),
        ("ArrowDown", "pictures/0/00002-000.png"),
        ("ArrowUp", "pictures/0/00001-000.png"),
        ("ArrowUp", "pictures/0/00000-000.png"),
        ("ArrowLeft", "pictures/0/00000-000.png"),
    ):
        browser.press(key)
        assert browser.run(LARGE) == wanted
    browser.click("#viewer .on")
    assert browser.run("document.querySelector('.place').textContent").endswith("very-long-name-, sample 2 of 2")
    browser.press("Escape")
    browser.wait("!document.getElementById('viewer').open")
    browser.wait("document.activeElement.getAttribute('href') === 'pictures/0/00000-001.png'")
    browser.press("Enter")
    browser.wait("document.getElementById('viewer').open")


def test_filters_hide_prompts_and_stand_in_the_address(browser, page):
    browser.open(page, 900)
    assert browser.run("document.getElementById('found').value") == "31 prompts"
    browser.click("input[value=Challenging]")
    assert browser.run(f"{SHOWN}.length") == 16
    browser.run("document.querySelector('[name=category]').value = 'Animals'")
    browser.run("document.querySelector('[name=category]').dispatchEvent(new Event('input', {bubbles: true}))")
    assert browser.run(f"{SHOWN}.length") == 1
    browser.click("#show-all")
    browser.wait(f"{SHOWN}.length === 31")
    browser.click("[name=q]")
    browser.type("CAT 7 number")
    assert browser.run("document.getElementById('found').value") == "3 of 31 prompts"
    assert browser.run(f"{SHOWN}.every(card => card.textContent.includes('7'))")
    browser.open(browser.run("location.href"), 900)
    assert browser.run(f"{SHOWN}.length") == 3
    browser.click(".card:not([hidden]) .shot")
    browser.press("ArrowDown")
    assert browser.run(LARGE) == "pictures/0/00018-000.png"


def test_no_prompt_that_fits_is_said(browser, page):
    browser.open(f"{page}#q=wombat&category=none&__proto__=x", 900)
    assert browser.run(f"{SHOWN}.length") == 0
    assert not browser.run("document.getElementById('nothing').hidden")
    assert browser.problems == []
