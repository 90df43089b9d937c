# ruff: noqa: F821  # what this needs is given as globals
"""What the tests run on each rank: several trainings of a prior one after the other, by the same processes.

Each is a list of overrides; a word `stop=7` ends a training in its step 7 on all ranks, `bad=5` makes the loss of rank
1 infinite there, and what is raised is kept in the output.
"""

import os
from contextlib import nullcontext
from pathlib import Path

from model.training import throughput
from model.training import train_prior as job
from model.training.prior_trainee import PriorTrainee
from model.training.ranks import join_ranks
from parti_data.errors import CheckpointError

TOLD: dict[str, str]
CONFIG: str
TRAININGS: list[list[str]]
_losses, _after_step = PriorTrainee.losses, PriorTrainee.after_step


def run(words: list[str], rank: int) -> None:
    told = dict(word.split("=", 1) for word in words)
    stop, bad = int(told.pop("stop", -1)), int(told.pop("bad", -1))

    def losses(self, network, step, part):
        terms = _losses(self, network, step, part)
        return {"total": terms["total"] * (float("inf") if (step, rank) == (bad, 1) else 1)}

    def after_step(self, step):
        if step == stop:
            raise KeyboardInterrupt
        _after_step(self, step)

    PriorTrainee.losses, PriorTrainee.after_step = losses, after_step
    try:
        job.train_prior(job.TrainPriorConfig.load(CONFIG, [f"{name}={value}" for name, value in told.items()]))
    except KeyboardInterrupt:
        pass
    except CheckpointError as error:
        Path(told["output"], f"error{rank}.txt").write_text(str(error))


os.environ.update(TOLD)
throughput._MEASURED_S = 0.0
with join_ranks("cpu") as ranks:
    job.join_ranks = lambda device: nullcontext(ranks)
    for words in TRAININGS:
        run(words, ranks.rank)
