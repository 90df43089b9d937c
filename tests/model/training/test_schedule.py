import math

import numpy as np
import pytest
from pydantic import ValidationError

from model.training.schedule import Schedule

PARTI = Schedule(
    num_steps=450_000, lr=4.5e-5, warmup_steps=5000, decay="exponential", decay_start=85_000, final_lr_ratio=0.025
)


def test_the_rate_warms_up_and_falls_along_a_cosine():
    schedule = Schedule(num_steps=110, lr=2.0, warmup_steps=10, final_lr_ratio=0.1)
    steps = np.arange(110, dtype=np.float64)
    falling = 2 * (0.1 + 0.9 * (1 + np.cos(np.pi * (steps - 10) / 100)) / 2)
    wanted = np.where(steps < 10, 2 * (steps + 1) / 10, falling)
    np.testing.assert_allclose([schedule.lr_at(step) for step in range(110)], wanted, rtol=1e-12)


def test_partis_rate_warms_up_stays_and_falls_by_one_factor_a_step_to_a_fortieth():
    steps = np.array([0, 4999, 5000, 84_999, 85_000, 85_001, 267_500, 449_999, 450_000], np.float64)
    factor = np.exp(np.log(0.025) / 365_000)
    falling = 4.5e-5 * factor ** np.maximum(steps - 85_000, 0)
    wanted = np.where(steps < 5000, 4.5e-5 * (steps + 1) / 5000, falling)
    np.testing.assert_allclose([PARTI.lr_at(int(step)) for step in steps], wanted, rtol=1e-10)
    assert PARTI.lr_at(450_000) == pytest.approx(4.5e-5 * 0.025, rel=1e-12)


def test_a_cosine_may_start_later_and_a_constant_rate_stays():
    late = Schedule(num_steps=100, lr=1.0, warmup_steps=0, decay_start=50)
    assert [late.lr_at(step) for step in (0, 49, 50)] == [1.0, 1.0, 1.0]
    assert late.lr_at(75) == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
    constant = Schedule(num_steps=100, lr=1.0, warmup_steps=4, decay="constant")
    assert [constant.lr_at(step) for step in (0, 3, 50, 99)] == [0.25, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beta1": 1.5}, "beta1"),
        ({"beta2": 1.0}, "beta2"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"final_lr_ratio": -0.1}, "final_lr_ratio"),
        ({"decay": "exponential"}, "an exponential decay ends at a final_lr_ratio above 0"),
        ({"decay_start": 50}, "decay_start comes no sooner than the end of the 100 warmup_steps"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        Schedule(num_steps=1, lr=1.0, **wrong)
