"""What the tests run on each rank: the program, which then writes what the rank ended with, or fails on request.

torchrun starts it with the program's arguments; other processes run it by path, with them as globals.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from model.training import ranks
from model.training import train_tokenizer as job
from model.training.tokenizer_trainee import TokenizerTrainee
from parti_data.errors import SourceError
from pipelines.command_line import main

TOLD: dict[str, str] = globals().get("TOLD", {})
ARGUMENTS: list[str] = globals().get("ARGUMENTS", sys.argv[1:])
FAILURE = os.environ.get("FAILURE", "")
_losses, _train = TokenizerTrainee.losses, job.train


def fail(self, network, step, part):
    if step == 3 and os.environ["RANK"] == "1":
        if FAILURE == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise SourceError("cats.tar: expected an image, found a dog; mend it")
    return _losses(self, network, step, part)


def train_and_tell(trainee, schedule, directory, title, running, place):
    _train(trainee, schedule, directory, title, running, place)
    networks = trainee.networks | {"average": trainee.trained}
    state = {f"{name}.{key}": tensor for name, net in networks.items() for key, tensor in net.state_dict().items()}
    torch.save(state, Path(directory, f"rank{place.rank}.pt"))


ranks._HEAD_START_S = 1.0
job.train = train_and_tell
if FAILURE:
    TokenizerTrainee.losses = fail
os.environ.update(TOLD)
main(ARGUMENTS)
