"""Numbers that change over the first updates of a training and then stay."""

import math

from pydantic import PositiveInt

from parti_data.config import StrictModel


class Annealing(StrictModel):
    """A number that goes along half a cosine from one value to another."""

    start: float
    end: float
    num_steps: PositiveInt

    def value_at(self, step: int) -> float:
        """Return the number at a step, counted from 0; from `num_steps` on it is `end`."""
        progress = min(step / self.num_steps, 1.0)
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * progress))
