"""Is the judge to be trusted? On rendered truth, and on pictures paired with another prompt."""

from collections.abc import Iterator

from model.evaluation.judge import judge
from parti_data.scenes import SPLITS, draw_scene, make_scene
from tests.benchmarks.run import Figure

SCENES_A_SPLIT = 2000


def figures() -> Iterator[Figure]:
    scenes = [make_scene(11, index, split) for split in SPLITS for index in range(SCENES_A_SPLIT)]
    pictures = [draw_scene(scene, 64) for scene in scenes]
    prompts = [scene.caption() for scene in scenes]
    right = [judge(picture, prompt) for picture, prompt in zip(pictures, prompts, strict=True)]
    yield Figure("judge_right_on_truth", sum(v.is_right for v in right if v) / len(right), 0.995, "more")
    shifted = prompts[1:] + prompts[:1]
    pairs = [(p, other) for p, own, other in zip(pictures, prompts, shifted, strict=True) if own != other]
    wrong = [judge(picture, other) for picture, other in pairs]
    yield Figure("judge_right_on_another_prompt", sum(v.is_right for v in wrong if v) / len(wrong), 0.05, "less")
