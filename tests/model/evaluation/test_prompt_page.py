import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from sample_directories import make_samples

from model.evaluation.evaluate import evaluate
from model.evaluation.evaluate_config import EvaluateConfig
from model.evaluation.sample_directory import SampleDirectory
from parti_data.errors import ShardError

HOSTILE = "<script>alert(1)</script>\"'><img src=https://example.org/x.png onerror=alert(2)> \u202e{{ 7 * 7 }}"
PROMPTS = [
    ("a cat", "Animals", "Basic"),
    ("two dogs", "Animals", "Quantity"),
    (HOSTILE, '"><b>', "<i>Imagination</i>"),
]


class Tags(HTMLParser):
    """Every tag of a page with its attributes, and the text in between."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def write(tmp_path: Path, page: dict, samples: str = "") -> Path:
    values = {"output": str(tmp_path / "evaluation"), "samples": samples, "page": page, "device": "cpu"}
    evaluate(EvaluateConfig.model_validate(values))
    return tmp_path / "evaluation"


@pytest.fixture
def models(tmp_path) -> dict[str, str]:
    """Two models; the second has no sample of the second prompt, and one of a prompt of its own."""
    others = [PROMPTS[0], PROMPTS[2], ("a boat", "Vehicles", "Complex")]
    return {
        "350M": make_samples(tmp_path / "small", PROMPTS, copies=3),
        "<750M>": make_samples(tmp_path / "large", others, copies=2),
    }


def test_every_prompt_has_the_pictures_of_each_model_beside_the_page(tmp_path, models):
    folder = write(tmp_path, {"models": models, "samples_per_prompt": 2})
    tags = Tags((folder / "prompts.html").read_text())
    shots = [attributes for attributes in tags.all("a") if attributes["class"] == "shot"]
    assert [shot["data-model"] for shot in shots] == ["350M"] * 2 + ["<750M>"] * 2 + ["350M"] * 4 + ["<750M>"] * 4
    for shot in shots:
        assert (folder / str(shot["href"])).is_file()
    copied = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    assert copied == sorted(str(shot["href"]) for shot in shots)
    small = (tmp_path / "small" / "sample-00001-001.png").read_bytes()
    assert (folder / "pictures" / "0" / "00001-001.png").read_bytes() == small
    assert tags.text.count("no sample") == 2


def test_pictures_are_loaded_when_they_are_near(tmp_path, models):
    folder = write(tmp_path, {"models": models})
    images = [image for image in Tags((folder / "prompts.html").read_text()).all("img") if image.get("id") != "large"]
    assert images
    assert all(image["loading"] == "lazy" and image["alt"] for image in images)


def test_prompts_can_be_filtered_by_what_they_have(tmp_path, models):
    tags = Tags((write(tmp_path, {"models": models}) / "prompts.html").read_text())
    cards = tags.all("article")
    assert [card["data-category"] for card in cards] == ["Animals", "Animals", '"><b>', "Vehicles"]
    assert [card["data-tier"] for card in cards] == ["Standard", "Challenging", "", "Challenging"]
    assert [option["value"] for option in tags.all("option")] == [
        "", '"><b>', "Animals", "Vehicles",
        "", "<i>Imagination</i>", "Basic", "Complex", "Quantity",
    ]  # fmt: skip
    assert [field["value"] for field in tags.all("input") if field["name"] == "tier"] == ["", "Standard", "Challenging"]


def test_what_no_prompt_has_is_no_filter(tmp_path):
    samples = make_samples(tmp_path / "samples", [("a cat", "", "")])
    tags = Tags((write(tmp_path, {}, samples) / "prompts.html").read_text())
    assert [field["name"] for field in tags.all("input")] == ["q"]
    assert not tags.all("select")


def test_strangers_texts_are_only_texts(tmp_path, models):
    page = (write(tmp_path, {"models": models, "title": HOSTILE}) / "prompts.html").read_text()
    tags = Tags(page)
    assert len(tags.all("script")) == 1
    assert not tags.all("b")
    assert not tags.all("i")
    assert not any("onerror" in attributes for _, attributes in tags.found)
    assert HOSTILE in tags.text
    assert all(str(image.get("src", "pictures/")).startswith("pictures/") for image in tags.all("img"))


def test_the_policy_lets_the_pages_own_script_run_and_nothing_be_fetched(tmp_path, models):
    page = (write(tmp_path, {"models": models}) / "prompts.html").read_text()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    (script,) = re.findall(r"<script>(.*)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src 'self' file:;")
    assert "http" not in policy


def test_a_picture_is_read_once_and_what_a_killed_run_left_is_swept(tmp_path, models, monkeypatch):
    left = tmp_path / "evaluation" / "pictures" / "1" / f"00000-000.png.tmp-{'0' * 32}"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half a picture")
    read, content = [], SampleDirectory.content
    monkeypatch.setattr(
        SampleDirectory, "content", lambda self, sample: read.append(sample.picture) or content(self, sample)
    )
    folder = write(tmp_path, {"models": models})
    assert not left.exists()
    assert len(read) == len(list(folder.rglob("*.png"))) + 2  # the first of each model tells its side


def test_a_picture_that_is_none_is_refused(tmp_path):
    pictures = [np.zeros((8, 8, 3), np.uint8), b"<svg onload=alert(1)>"]
    samples = make_samples(tmp_path / "samples", PROMPTS[:2], pictures=pictures)
    with pytest.raises(ShardError, match="sample-00001-000.png: expected a square picture, found"):
        write(tmp_path, {}, samples)
