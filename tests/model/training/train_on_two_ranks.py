# ruff: noqa: F821  # what this needs is given as globals
"""What the tests run on each rank: several trainings on rows one after the other, by the same processes.

Each is a job, the path of its config, and overrides; a word `stop=7` ends a training in its step 7 on all ranks,
`bad=5` makes a prior's loss of rank 1 infinite there, `apart=DIR` has each rank work in a folder of its own below one,
and what is raised is kept in the output.
"""

import os
from contextlib import chdir, nullcontext
from importlib import import_module
from pathlib import Path

from model.training import throughput
from model.training.prior_trainee import PriorTrainee
from model.training.ranks import join_ranks
from model.training.row_trainee import RowTrainee
from parti_data.errors import CheckpointError, RankError

TOLD: dict[str, str]
TRAININGS: list[list[str]]
_losses, _after_step = PriorTrainee.losses, RowTrainee.after_step
CONFIGS = {
    "prior": "TrainPriorConfig",
    "text_encoder": "TrainTextEncoderConfig",
    "contrastive": "TrainContrastiveConfig",
    "tokenizer": "TrainTokenizerConfig",
    "dvae": "TrainDVAEConfig",
    "upsampler": "TrainUpsamplerConfig",
}


def run(name: str, path: str, words: list[str], rank: int) -> None:
    told = dict(word.split("=", 1) for word in words)
    stop, bad = int(told.pop("stop", -1)), int(told.pop("bad", -1))
    place = Path(told.pop("apart"), str(rank)) if "apart" in told else Path()
    place.mkdir(parents=True, exist_ok=True)

    def losses(self, network, step, part):
        terms = _losses(self, network, step, part)
        return {"total": terms["total"] * (float("inf") if (step, rank) == (bad, 1) else 1)}

    def after_step(self, step):
        if step == stop:
            raise KeyboardInterrupt
        _after_step(self, step)

    PriorTrainee.losses, RowTrainee.after_step = losses, after_step
    job = import_module(f"model.training.train_{name}")
    job.join_ranks = lambda device: nullcontext(ranks)
    config = getattr(job, CONFIGS[name]).load(path, [f"{key}={value}" for key, value in told.items()])
    with chdir(place):
        try:
            getattr(job, f"train_{name}")(config)
        except KeyboardInterrupt:
            pass
        except (CheckpointError, RankError) as error:
            Path(told["output"]).mkdir(exist_ok=True)
            Path(told["output"], f"error{rank}.txt").write_text(str(error))


os.environ.update(TOLD)
throughput._MEASURED_S = 0.0
with join_ranks("cpu") as ranks:
    for job_name, config_path, *overrides in TRAININGS:
        run(job_name, config_path, overrides, ranks.rank)
