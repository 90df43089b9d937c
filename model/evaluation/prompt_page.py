"""A page on which samples are looked through: by category, challenge and tier, of several models side by side.

Pictures lie beside the page, in a folder that it names relative to itself, so that both can be moved together. Texts
are strangers' and escaped; the names of files are the page's own; a policy in it lets nothing else be loaded or run.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable
from importlib.resources import files
from typing import NamedTuple

from markupsafe import Markup

from model.evaluation.evaluate_config import PageSettings
from model.evaluation.measured import Measured
from model.evaluation.prompt_groups import TIERS, tier_of
from model.evaluation.sample_directory import Sample, SampleDirectory
from model.evaluation.templates import open_templates
from parti_data.figures import say_count
from parti_data.progress import show_progress
from parti_data.storage import join, publish_bytes, sweep
from parti_data.threads import map_in_threads

PAGE = "prompts.html"
PICTURES = "pictures"
_PACKAGE = "model.evaluation"
_ENLARGED_PX = 128
"""Pictures up to this side are shown with their pixels as squares, not smoothed."""


class Prompt(NamedTuple):
    """A text, what it belongs to, and for each model the names of its pictures."""

    text: str
    category: str
    challenge: str
    pictures: list[list[str]]

    @property
    def tier(self) -> str:
        """The tier of its challenge."""
        return tier_of(self.challenge)


class _Copy(NamedTuple):
    """A picture that the page shows, and what it is called there."""

    directory: SampleDirectory
    sample: Sample
    name: str


class Option(NamedTuple):
    """What prompts can be filtered by, and how many have it."""

    name: str
    count: int


def write_prompt_page(settings: PageSettings, models: dict[str, SampleDirectory], output: str) -> Measured:
    """Write the page and its pictures; raises ShardError where a picture is none."""
    prompts, copies = [], []
    for number, (text, samples) in enumerate(gather_prompts(models, settings.samples_per_prompt).items()):
        pictures = []
        for place, (model, directory) in enumerate(models.items()):
            mine = samples.get(model, [])
            pictures.append([f"{PICTURES}/{place}/{number:05d}-{count:03d}.png" for count in range(len(mine))])
            copies += [_Copy(directory, *copy) for copy in zip(mine, pictures[-1], strict=True)]
        first = next(iter(samples.values()))[0]
        prompts.append(Prompt(text, first.category, first.challenge, pictures))
    for place in range(len(models)):
        sweep(join(output, f"{PICTURES}/{place}"))  # of a run that was killed
    _make_copies(copies, output)
    side_px = max(directory.side_px for directory in models.values())
    publish_bytes(join(output, PAGE), render(settings.title, list(models), prompts, side_px).encode("utf-8", "replace"))
    names = (PAGE, *(copy.name for copy in copies))
    return Measured(counts={"page_prompts": len(prompts), "page_pictures": len(copies)}, files=names)


def gather_prompts(models: dict[str, SampleDirectory], at_most: int) -> dict[str, dict[str, list[Sample]]]:
    """Return the first samples of each prompt by prompt and model, prompts in the order of their first appearance."""
    found: dict[str, dict[str, list[Sample]]] = {}
    for name, directory in models.items():
        for sample in directory.samples:
            mine = found.setdefault(sample.prompt, {}).setdefault(name, [])
            if len(mine) < at_most:
                mine.append(sample)
    return found


def _make_copies(copies: list[_Copy], output: str) -> None:
    """Copy pictures, several at a time: most of it is waiting for the disk."""

    def copy(one: _Copy) -> None:
        publish_bytes(join(output, one.name), one.directory.checked_content(one.sample))

    with show_progress("page", len(copies)) as bar:
        for number, _ in enumerate(map_in_threads(copy, copies), 1):
            bar.update(number, "pictures")


def render(title: str, models: list[str], prompts: list[Prompt], side_px: int) -> str:
    """Return the page as HTML."""
    environment = open_templates(_PACKAGE)
    environment.filters["count"] = say_count
    script = files(_PACKAGE).joinpath("prompt_page.js").read_text("utf-8")
    return environment.get_template("prompt_page.html").render(
        title=title,
        models=models,
        prompts=prompts,
        filters={
            "category": _options(prompt.category for prompt in prompts),
            "challenge": _options(prompt.challenge for prompt in prompts),
        },
        tiers=[Option(tier, count) for tier in TIERS if (count := sum(prompt.tier == tier for prompt in prompts))],
        num_pictures=sum(len(pictures) for prompt in prompts for pictures in prompt.pictures),
        is_small=side_px <= _ENLARGED_PX,
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _options(values: Iterable[str]) -> list[Option]:
    return [Option(name, count) for name, count in sorted(Counter(filter(None, values)).items())]
