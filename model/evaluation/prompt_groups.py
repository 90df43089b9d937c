"""The groups of prompts: by category, by challenge, and by the tier that a challenge belongs to."""

from collections.abc import Callable, Iterable

from model.evaluation.sample_directory import Sample

TIERS = {
    "Standard": ("Basic", "Simple Detail"),
    "Intermediate": ("Fine-grained Detail", "Style & Format"),
    "Challenging": (
        "Imagination", "Complex", "Writing & Symbols", "Quantity", "Perspective", "Linguistic Structures",
        "Properties & Positioning",
    ),
}  # fmt: skip
"""PartiPrompts' challenges by difficulty. Source: Parti, section 5."""
_TIER_OF = {challenge: tier for tier, challenges in TIERS.items() for challenge in challenges}


def tier_of(challenge: str) -> str:
    """Return the tier of a challenge, empty for one that PartiPrompts does not have."""
    return _TIER_OF.get(challenge, "")


GROUPINGS: dict[str, Callable[[Sample], str]] = {
    "category": lambda sample: sample.category,
    "challenge": lambda sample: sample.challenge,
    "tier": lambda sample: tier_of(sample.challenge),
}


def mean_by_group(samples: Iterable[Sample], values: Iterable[float]) -> dict[str, dict[str, float]]:
    """Return the mean of the samples' values by grouping and group; a grouping of which nothing is said is left out."""
    found: dict[str, dict[str, list[float]]] = {grouping: {} for grouping in GROUPINGS}
    for sample, value in zip(samples, values, strict=True):
        for grouping, group_of in GROUPINGS.items():
            if group := group_of(sample):
                found[grouping].setdefault(group, []).append(value)
    return {
        grouping: {group: sum(members) / len(members) for group, members in sorted(groups.items())}
        for grouping, groups in found.items()
        if groups
    }
