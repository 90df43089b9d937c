"""Completed pictures of synthetic scenes, each judged against the picture whose first rows it was given.

A completed picture is right where it shows whole objects on a plain background and nothing else, and is still the scene
that was begun: one to three objects, unlike each other and apart as in every scene, and in their places all those of
the original of which at least half was given. So an object cut by the last given row has to be completed to what it
was, unless less than half of it was to be seen; what is drawn freely below has to be of whole objects. Pictures without
such a cut are not judged: there anything may follow.

Measured on 600 scenes at 16 px in 64 colours, 8 rows given, of which 245 have a cut: of the originals 100 % are right,
with the given half mirrored 8 %, with nothing below 0.8 %, with another scene's half on the same background 0.4 %, with
all objects going on as another shape 11 %, as another colour 6 %.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from model.evaluation.judge import FOREGROUND_DISTANCE, Verdict
from model.evaluation.measured import Measured
from model.evaluation.sample_directory import Sample, SampleDirectory
from model.evaluation.scene_fit import Fit, SceneFitter
from parti_data.errors import ShardError
from parti_data.image_dataset import load_pixels
from parti_data.ledger import PairDirectory
from parti_data.progress import show_progress
from parti_data.recipes import resize_center
from parti_data.scenes import MOST_OBJECTS, SceneObject, are_apart, look_alike

VERDICTS = "completions.parquet"
RIGHT = "completed_right"
_CUT_SHARE, _TOLD_SHARE = 0.1, 0.5
"""Of an object: what lies on either side of a cut at least, and what has to be given for it to be known again."""
_SPECK_SHARE = 0.004
"""Of the pixels: so few may be unlike the drawing of what is found, one at 16 px."""
_MOST_SIDE_PX = 256
"""Of what is judged: the drawings that are tried, each object at each place, take 0.6 GB then."""


class Original(NamedTuple):
    """A picture whose first rows were given."""

    drawn_px: int
    """Its side, before it was resized to that of the samples."""
    picture: np.ndarray
    """uint8 (S, S, 3)."""


def judge_completions(directory: SampleDirectory, originals: dict[str, Original]) -> Measured:
    """Return the share of right ones among the completed pictures with a cut object, and a table of verdicts.

    The originals are by their keys.
    """
    samples = [sample for sample in directory.samples if sample.given_key]
    side, grid_side = directory.side_px, directory.grid_side()
    fitters = {drawn_px: SceneFitter(side, drawn_px) for drawn_px in {one.drawn_px for one in originals.values()}}
    verdicts = []
    with show_progress("judge completions", len(samples)) as bar:
        for number, sample in enumerate(samples, 1):
            original = originals[sample.given_key]
            fitter = fitters[original.drawn_px]
            begun = fitter.fit(original.picture)
            given_px = sample.given_rows * side // grid_side
            verdicts.append(judge_completion(fitter, begun, fitter.fit(directory.pixels(sample)), given_px))
            bar.update(number, "images")
    return _measured(samples, verdicts)


def read_originals(directory: SampleDirectory, source: str) -> dict[str, Original]:
    """Return the pictures of a finished directory that samples were given rows of, by their keys; raises ShardError
    where one is not there, none was given, or what is to be judged is no scene by its size.
    """
    directory.grid_side()
    _refuse_size(directory.path, directory.side_px, directory.side_px)
    keys = {sample.given_key for sample in directory.samples if sample.given_key}
    pairs = PairDirectory(source)
    rows = list({row.key: row for row in pairs.find(keys)}.values())
    if len(rows) < len(keys) or not keys:
        raise ShardError(
            f"completions.source: expected the pictures that {directory.path} completes, found {len(rows)} of "
            f"{len(keys)} in {source}; name the directory that completion.source named"
        )
    originals = {}
    for row, pixels in zip(rows, load_pixels(pairs, rows), strict=True):
        _refuse_size(source, *pixels.shape[:2])
        originals[row.key] = Original(len(pixels), resize_center(pixels, directory.side_px).pixels)
    return originals


def _refuse_size(path: str, height_px: int, width_px: int) -> None:
    if height_px != width_px or height_px > _MOST_SIDE_PX:
        raise ShardError(
            f"{path}: expected square scenes of at most {_MOST_SIDE_PX} px, found a picture of {width_px}x{height_px}; "
            "leave out completions, which judges synthetic scenes alone"
        )


def judge_completion(fitter: SceneFitter, original: Fit, completed: Fit, given_px: int) -> Verdict | None:
    """Return the verdict on what was found in a completed picture; None where the last given row cuts no object of the
    original.
    """
    shares = {item: fitter.share_above(item, given_px) for item in original.objects}
    if not any(_CUT_SHARE <= share <= 1 - _CUT_SHARE for share in shares.values()):
        return None
    fault = _fault(original, completed, [item for item, share in shares.items() if share >= _TOLD_SHARE])
    return Verdict(not fault, fault)


def _fault(original: Fit, completed: Fit, told: list[SceneObject]) -> str:
    """Return the first thing that is wrong, empty where nothing is; `told` has to be found again."""
    found = completed.objects
    if completed.background != original.background:
        return f"{completed.background} background"
    if (completed.distances > FOREGROUND_DISTANCE).sum() > _SPECK_SHARE * completed.distances.size:
        return "not of whole objects"
    if not 1 <= len(found) <= MOST_OBJECTS:
        return f"{len(found)} objects"
    if any(look_alike(*pair) for pair in combinations(found, 2)):
        return "objects that look alike"
    if not all(are_apart(*pair) for pair in combinations(found, 2)):
        return "objects that touch"
    changed = [item.phrase() for item in told if item not in found]
    return f"no {changed[0]} in its place" if changed else ""


def _measured(samples: list[Sample], verdicts: list[Verdict | None]) -> Measured:
    judged = [verdict for verdict in verdicts if verdict]
    table = pa.table(
        {
            "picture": [sample.picture for sample in samples],
            "given_key": [sample.given_key for sample in samples],
            "is_right": pa.array([verdict.is_right if verdict else None for verdict in verdicts], pa.bool_()),
            "fault": [verdict.fault if verdict else "no object is cut" for verdict in verdicts],
        }
    )
    counts = {"completions_judged": len(judged), "completions_not_judged": len(verdicts) - len(judged)}
    figures = {RIGHT: float(np.mean([verdict.is_right for verdict in judged]))} if judged else {}
    return Measured(figures, counts, {VERDICTS: table})
