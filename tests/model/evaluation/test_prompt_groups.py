import csv

import pytest

from model.evaluation.prompt_groups import mean_by_group, tier_of
from model.evaluation.sample_directory import Sample


def test_the_tiers_of_partiprompts_are_as_large_as_published(shared):
    with open(shared / "data" / "parti-prompts" / "PartiPrompts.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    tiers = [tier_of(row["Challenge"]) for row in rows]
    counts = {tier: tiers.count(tier) for tier in set(tiers)}
    assert counts == {"Standard": 504, "Intermediate": 518, "Challenging": 610}


def test_an_unknown_challenge_has_no_tier():
    assert tier_of("Telepathy") == ""


def test_means_are_of_each_group_and_groups_without_a_name_are_left_out():
    samples = [
        Sample("a", "Animals", "Basic", 0, "a.png"),
        Sample("b", "Animals", "Complex", 0, "b.png"),
        Sample("c", "", "Complex", 0, "c.png"),
    ]
    assert mean_by_group(samples, [1.0, 2.0, 6.0]) == {
        "category": {"Animals": 1.5},
        "challenge": {"Basic": 1.0, "Complex": 4.0},
        "tier": {"Standard": 1.0, "Challenging": 4.0},
    }
    assert mean_by_group([Sample("d", "", "", 0, "d.png")], [1.0]) == {}


def test_every_sample_has_its_value():
    with pytest.raises(ValueError, match="zip"):
        mean_by_group([], [1.0])
