"""Completed scenes: originals are right, other ways to go on are not, and each fault is told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_directories import make_samples

from model.evaluation import completions
from model.evaluation.completions import judge_completion, read_originals
from model.evaluation.evaluate import EvaluateConfig, evaluate, figure_lines
from model.evaluation.sample_directory import SampleDirectory
from model.evaluation.scene_fit import SceneFitter
from parti_data.errors import ConfigError, ShardError
from parti_data.images import ImageLimits, decode
from parti_data.ledger import PairDirectory
from parti_data.recipes import resize_center
from parti_data.scenes import BACKGROUNDS, COLOURS, SHAPES, Scene, SceneObject, draw_scene, make_scene

SIDE, GIVEN = 16, 8
SCENES = [make_scene(21, index) for index in range(150)]
FITTER = SceneFitter(SIDE, 64)


def small(scene: Scene) -> np.ndarray:
    return resize_center(draw_scene(scene, 64), SIDE).pixels.copy()


def right_share(go_on) -> tuple[float, int]:
    """The share of right ones where the lower half comes from elsewhere, and how many were judged."""
    verdicts = []
    for scene in SCENES:
        original = small(scene)
        completed = np.concatenate([original[:GIVEN], go_on(scene, original)[GIVEN:]])
        verdicts.append(judge_completion(FITTER, FITTER.fit(original), FITTER.fit(completed), GIVEN))
    judged = [verdict.is_right for verdict in verdicts if verdict]
    return float(np.mean(judged)), len(judged)


def other_scene(scene: Scene, original: np.ndarray) -> np.ndarray:
    others = (SCENES[SCENES.index(scene) - number] for number in range(1, len(SCENES)))
    return small(next(other for other in others if other.background == scene.background))


def with_objects(change):
    return lambda scene, original: small(Scene(scene.background, tuple(map(change, scene.objects))))


def other_shape(item: SceneObject) -> SceneObject:
    return replace(item, shape=SHAPES[SHAPES.index(item.shape) - 1])


def other_colour(item: SceneObject) -> SceneObject:
    return replace(item, colour=list(COLOURS)[list(COLOURS).index(item.colour) - 1])


def empty(scene: Scene, original: np.ndarray) -> np.ndarray:
    return np.full_like(original, BACKGROUNDS[scene.background])


def test_every_original_is_right():
    share, count = right_share(lambda scene, original: original)
    assert share == 1
    assert 30 < count < 120  # the others have no object at the cut


@pytest.mark.parametrize(
    ("go_on", "most"),
    [
        pytest.param(lambda scene, original: original[::-1], 0.15, id="mirrored"),
        pytest.param(empty, 0.03, id="empty"),
        pytest.param(other_scene, 0.05, id="another scene"),
        pytest.param(lambda scene, original: np.roll(original, 1, 1), 0.05, id="shifted"),
        pytest.param(with_objects(other_shape), 0.15, id="another shape"),
        pytest.param(with_objects(other_colour), 0.1, id="another colour"),
    ],
)
def test_what_does_not_go_on_as_it_began_is_hardly_ever_right(go_on, most):
    assert right_share(go_on)[0] <= most


CUT = SceneObject("square", "blue", "large", 0.25, 0.5)
BEGUN = Scene("black", (CUT,))


def verdict_on(picture: np.ndarray, begun: Scene = BEGUN):
    return judge_completion(FITTER, FITTER.fit(small(begun)), FITTER.fit(picture), GIVEN)


@pytest.mark.parametrize(
    ("background", "objects", "fault"),
    [
        ("black", [CUT], ""),
        ("black", [CUT, SceneObject("ring", "red", "small", 0.75, 0.75)], ""),
        ("white", [CUT], "white background"),
        ("black", [SceneObject("circle", "blue", "large", 0.25, 0.5)], "no a large blue square in its place"),
        ("black", [CUT, replace(CUT, x=0.75)], "objects that look alike"),
        ("black", [CUT, SceneObject("cross", "red", "small", 0.5625, 0.5)], "objects that touch"),
    ],
)
def test_each_fault_is_told(background, objects, fault):
    found = verdict_on(small(Scene(background, tuple(objects))))
    assert found is not None
    assert (found.is_right, found.fault) == (not fault, fault)


def test_more_than_three_objects_or_none_are_a_fault():
    corners = [("circle", 0.8125, 0.1875), ("star", 0.8125, 0.8125), ("ring", 0.4375, 0.1875)]
    more = tuple(SceneObject(shape, "red", "small", x, y) for shape, x, y in corners)
    assert verdict_on(small(Scene("black", (CUT, *more)))) == (False, "4 objects")
    assert verdict_on(np.full((SIDE, SIDE, 3), 10, np.uint8)) == (False, "0 objects")


def test_one_wrong_pixel_is_forgiven_and_two_are_not():
    picture = small(BEGUN)
    picture[14, 14] = 255
    assert verdict_on(picture) == (True, "")
    picture[14, 10] = 255
    assert verdict_on(picture) == (False, "not of whole objects")


def test_of_what_was_hardly_seen_any_whole_object_is_right():
    hidden = SceneObject("circle", "red", "large", 0.5, 0.625)  # less than half of it is given
    begun = Scene("black", (hidden,))
    assert 0.1 < FITTER.share_above(hidden, GIVEN) < 0.4
    other = replace(hidden, shape="ring")
    assert verdict_on(small(Scene("black", (other,))), begun) == (True, "")


def test_where_no_object_is_cut_nothing_is_judged():
    assert verdict_on(small(BEGUN), Scene("black", (replace(CUT, y=0.25),))) is None


@pytest.fixture
def completed(tmp_path, filtered):
    """Samples of 16 px that complete the first pairs: as they were, all but the last."""
    rows = list(PairDirectory(filtered).kept(0, 12))
    originals = [small_of(content) for _, content in PairDirectory(filtered).fetch_each(rows)]
    pictures = [*originals[:-1], np.full((SIDE, SIDE, 3), 128, np.uint8)]
    path = make_samples(tmp_path / "samples", [("", "", "")] * 12, pictures=pictures)
    table = pq.read_table(f"{path}/samples.parquet")
    table = table.append_column("given_rows", [[GIVEN] * 12]).append_column("given_key", [[row.key for row in rows]])
    pq.write_table(table.append_column("image_tokens", [[[0] * SIDE**2] * 12]), f"{path}/samples.parquet")
    return path


def small_of(content: bytes) -> np.ndarray:
    pixels = decode(content, ImageLimits())
    assert isinstance(pixels, np.ndarray)
    return resize_center(pixels, SIDE).pixels


def test_samples_are_judged_by_the_pictures_that_they_complete(completed, filtered, tmp_path):
    config = {"output": f"{tmp_path}/out", "samples": completed, "completions": {"source": filtered}}
    manifest = evaluate(EvaluateConfig.model_validate(config))
    rows = pq.read_table(f"{tmp_path}/out/completions.parquet").to_pylist()
    judged = [row["is_right"] for row in rows if row["is_right"] is not None]
    assert manifest.counts == {"completions_judged": len(judged), "completions_not_judged": 12 - len(judged)}
    assert 0 < len(judged) < 12
    assert all(row["is_right"] is not False for row in rows[:-1])
    assert manifest.details["figures"]["completed_right"] == pytest.approx(np.mean(judged), abs=1e-6)
    assert figure_lines(manifest)[0].startswith("completed right: ")
    assert {row["fault"] for row in rows if row["is_right"] is None} == {"no object is cut"}
    assert manifest.inputs.keys() == {"samples", "completions"}
    assert "source" not in manifest.config["completions"]


def test_other_pictures_than_were_completed_are_refused(completed, sharded, tmp_path):
    table = pq.read_table(f"{completed}/samples.parquet")
    keys = ["0" * 32, *table["given_key"].to_pylist()[1:]]
    table = table.set_column(table.column_names.index("given_key"), "given_key", [keys])
    pq.write_table(table, f"{completed}/samples.parquet")
    config = {"output": f"{tmp_path}/out", "samples": completed, "completions": {"source": sharded}}
    with pytest.raises(
        ShardError,
        match="completions.source: expected the pictures that .* completes, found 11 of 12 in .*; name the directory "
        "that completion.source named",
    ):
        evaluate(EvaluateConfig.model_validate(config))
    assert not Path(f"{tmp_path}/out").exists()


@pytest.mark.parametrize("num_tokens", [0, 200])
def test_tokens_that_make_no_grid_are_refused(completed, sharded, tmp_path, num_tokens):
    table = pq.read_table(f"{completed}/samples.parquet").drop_columns("image_tokens")
    tokens = pa.array([[0] * num_tokens] * 12, pa.list_(pa.int64()))
    pq.write_table(table.append_column("image_tokens", tokens), f"{completed}/samples.parquet")
    config = {"output": f"{tmp_path}/out", "samples": completed, "completions": {"source": sharded}}
    with pytest.raises(
        ShardError, match=f"expected image tokens of a square grid, found {num_tokens}; run sample into"
    ):
        evaluate(EvaluateConfig.model_validate(config))
    assert not Path(f"{tmp_path}/out").exists()


def test_pictures_that_are_no_scenes_by_their_size_are_refused(completed, filtered, monkeypatch):
    directory = SampleDirectory(completed)
    monkeypatch.setattr(completions, "_MOST_SIDE_PX", 31)  # the pairs have 32
    with pytest.raises(
        ShardError, match="expected square scenes of at most 31 px, found a picture of 32x32; leave out"
    ):
        read_originals(directory, filtered)
    monkeypatch.setattr(completions, "_MOST_SIDE_PX", 15)
    with pytest.raises(ShardError, match="samples: expected square scenes of at most 15 px, found a picture of 16x16"):
        read_originals(directory, filtered)


def test_completions_need_samples():
    with pytest.raises(ConfigError, match="samples: expected a directory that sample finished, found none"):
        EvaluateConfig.model_validate({"output": "out", "completions": {"source": "a"}}).refuse_nothing()
