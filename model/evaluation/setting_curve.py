"""How the share of right pictures of synthetic scenes changes with one setting of sample, such as its guidance."""

from typing import Any

from model.evaluation.curves import Curves, Line, Panel
from model.evaluation.measured import Measured
from model.evaluation.sample_directory import SampleDirectory
from model.evaluation.verdicts import judge_samples, right_by_category
from parti_data.errors import ShardError
from parti_data.manifest import Manifest, read_manifest

_LARGEST = 1 << 53
"""Whole numbers below it differ as floats too."""
SETTING_CURVE = "curve"
RIGHT = "right"


class SettingCurve:
    """Finished directories of samples in the order of the one number in which their configs differ.

    Raises ShardError where they differ in something else, or in more.
    """

    def __init__(self, paths: list[str]):
        manifests = [read_manifest(path, ("sample",)) for path in paths]
        self.setting = _differing_setting(paths, manifests)
        values = [float(_flat(manifest.config)[self.setting]) for manifest in manifests]
        ordered = sorted(zip(values, paths, strict=True))
        self.values = [value for value, _ in ordered]
        self.directories = [SampleDirectory(path) for _, path in ordered]

    def measure(self) -> Measured:
        """Return the share of right pictures of each category by the setting."""
        shares: dict[str, list[tuple[float, float]]] = {}
        judged: dict[str, int] = {}
        num_judged = 0
        for value, directory in zip(self.values, self.directories, strict=True):
            verdicts = judge_samples(directory)
            for category, is_right in right_by_category(directory.samples, verdicts).items():
                shares.setdefault(category, []).append((value, round(sum(is_right) / len(is_right), 4)))
                judged[category] = min(judged.get(category, len(is_right)), len(is_right))
                num_judged += len(is_right)
        panels = [
            Panel(category=category, num_pictures=judged[category], lines=[Line(name=RIGHT, points=points)])
            for category, points in sorted(shares.items())
        ]
        title = f"Right pictures by {self.setting}"
        return Measured(
            counts={"curve_directories": len(self.values), "curve_judged": num_judged},
            curves={SETTING_CURVE: Curves(title=title, x_label=self.setting, tells_last=False, panels=panels)},
        )


def _differing_setting(paths: list[str], manifests: list[Manifest]) -> str:
    """Return the name of the one setting, a number, that differs, and in each from all others."""
    for name in sorted(set().union(*(manifest.inputs for manifest in manifests))):
        for path, manifest in zip(paths, manifests, strict=True):
            if manifest.inputs.get(name) != manifests[0].inputs.get(name):
                raise ShardError(
                    f"{path}: expected samples with the {name} of {paths[0]}, found another; leave it out of "
                    "curve.samples"
                )
    configs = [_flat(manifest.config) for manifest in manifests]
    names = sorted(set().union(*configs))
    differing = [name for name in names if any(config.get(name) != configs[0].get(name) for config in configs)]
    values = [config.get(name) for config in configs for name in differing]
    is_number = all(map(_is_number, values))
    if len(differing) != 1 or not is_number or len(set(values)) < len(values):
        raise ShardError(
            f"curve.samples: expected directories that differ in one number, each from all others, found "
            f"{'; '.join(f'{name} {[config.get(name) for config in configs]}' for name in differing) or 'equal ones'}; "
            "leave out what does not belong"
        )
    return differing[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of tables by dotted names, without those that are None, which older versions have not."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            found[f"{prefix}{name}"] = value
    return found
