import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from model.training import schedule as schedule_module
from model.training.schedule import Schedule, has_bfloat16

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


def test_the_dvaes_rate_falls_along_a_cosine_over_the_first_updates_and_stays():
    schedule = Schedule(num_steps=3_000_000, lr=1e-4, warmup_steps=0, final_lr_ratio=0.0125, decay_end=1_200_000)
    assert schedule.lr_at(0) == 1e-4
    assert schedule.lr_at(300_000) == pytest.approx(1.25e-6 + 9.875e-5 * (1 + math.cos(math.pi / 4)) / 2, rel=1e-12)
    for step in (1_200_000, 2_999_999):
        assert schedule.lr_at(step) == pytest.approx(1.25e-6, rel=1e-12)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beta1": 1.5}, "beta1"),
        ({"beta2": 1.0}, "beta2"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"final_lr_ratio": -0.1}, "final_lr_ratio"),
        ({"final_lr_ratio": 1.1}, "final_lr_ratio\n  Input should be less than or equal to 1"),
        ({"decay": "exponential"}, "an exponential decay ends at a final_lr_ratio above 0"),
        (
            {"decay": "constant", "final_lr_ratio": 0.1},
            "a constant rate has no final_lr_ratio, decay_start or decay_en",
        ),
        ({"decay": "constant", "warmup_steps": 0, "decay_start": 0}, "a constant rate has no final_lr_ratio"),
        ({"decay": "constant", "decay_end": 200}, "a constant rate has no final_lr_ratio"),
        ({"decay_start": 50}, "decay_start comes no sooner than the end of the 100 warmup_steps"),
        ({"decay_start": 100}, "decay_start comes before the end of the 1 num_steps"),
        ({"decay_end": 100}, "decay_end comes later than step 100, at which the decay starts"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        Schedule(num_steps=1, lr=1.0, **wrong)


@pytest.mark.parametrize("has", [True, False])
def test_products_are_as_asked_or_as_the_device_does_them_fast(monkeypatch, has):
    monkeypatch.setattr(schedule_module, "has_bfloat16", lambda device: has)
    cpu = torch.device("cpu")
    found = {
        name: Schedule(num_steps=1, lr=1.0, precision=name).product_dtype(cpu)
        for name in ("auto", "bfloat16", "float32")
    }
    by_device = torch.bfloat16 if has else torch.float32
    assert found == {"auto": by_device, "bfloat16": torch.bfloat16, "float32": torch.float32}


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="the kernel tells nothing of the processor")
def test_a_processor_has_bfloat16_where_the_kernel_says_so():
    flags = Path("/proc/cpuinfo").read_text()
    assert has_bfloat16(torch.device("cpu")) == ("avx512_bf16" in flags or "amx_tile" in flags)
