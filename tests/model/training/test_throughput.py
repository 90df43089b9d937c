import itertools
import time
from dataclasses import replace

import pytest
import torch

from model.priors.dalle import DALLE, DALLEShape
from model.priors.parti import Parti, PartiShape
from model.training import throughput
from model.training.ranks import Ranks
from model.training.throughput import Throughput, Work, count_work, matmul_peak, throughput_line

SHAPE = PartiShape(
    text_vocabulary_size=50, max_text_length=12, codebook_size=48, grid_side=4, width=32, hidden=64, num_heads=2,
    num_encoder_layers=3, num_decoder_layers=2,
)  # fmt: skip


@pytest.mark.parametrize("grid_side", [4, 16])
def test_work_is_six_flops_a_weight_and_token_and_what_attention_adds(grid_side):
    text, image, width, hidden, codes = 7, grid_side**2, 32, 64, 48
    encoder = 3 * (4 * width**2 + 2 * width * hidden) * text
    decoder = 2 * ((6 * width**2 + 2 * width * hidden) * image + 2 * width**2 * text)
    attention = 2 * width * (3 * text**2 + 2 * (image**2 + image * text))
    wanted = 6 * (encoder + decoder + width * codes * image + attention)
    network = Parti(replace(SHAPE, grid_side=grid_side)).train()
    found = count_work(network, image, torch.ones(2, text, dtype=torch.long), torch.ones(2, image, dtype=torch.long))
    assert found == Work(image, wanted)
    assert network.training


def test_a_network_whose_layers_share_a_mask_is_whole_after_its_work_was_counted():
    shape = DALLEShape(max_text_length=4, codebook_size=48, grid_side=4, width=32, hidden=64, num_heads=2, num_layers=5)
    network, inputs = DALLE(shape).eval(), (torch.ones(1, 3, dtype=torch.long), torch.ones(1, 16, dtype=torch.long))
    wanted = network(*inputs)
    count_work(network, 16, *inputs)
    assert torch.equal(network(*inputs), wanted)


def test_a_peak_is_that_of_the_fastest_product(monkeypatch):
    seconds = itertools.chain([0.4, 0.2, 0.3], itertools.repeat(0.5))
    monkeypatch.setattr(throughput, "_seconds", lambda a, b: next(seconds))
    monkeypatch.setattr(throughput, "_MEASURED_S", 0.2)
    assert matmul_peak(torch.device("cpu"), torch.float32) == pytest.approx(2 * 512**3 / 0.2)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_speed_is_that_of_the_steps_since_the_last_line_without_pauses(clock, monkeypatch):
    monkeypatch.setattr(throughput, "matmul_peak", lambda device, dtype: 1e12)
    told = Throughput(Work(tokens=64, flops=3e9), 32, Ranks(world_size=2), torch.float32)
    for seconds in (2.0, 6.0):
        for _ in range(4):
            told.count()
        clock[0] += seconds
        with told.paused():
            clock[0] += 100
        found = told.tell(steps_left=10)
        step_s = seconds / 4
        assert found["steps_per_s"] == pytest.approx(1 / step_s, abs=0.005)
        assert found["rows_per_s"] == pytest.approx(32 / step_s, abs=0.005)
        assert found["tokens_per_s"] == pytest.approx(32 * 64 / step_s, abs=0.05)
        assert found["mfu"] == pytest.approx(32 / step_s * 3e9 / 2 / 1e12, abs=5e-5)
        assert found["eta_s"] == pytest.approx(10 * step_s)
        assert found["matmul_peak_tflops"] == 1.0
        assert 1e7 < found["memory_bytes"] < 1e12
    line = throughput_line(found, 32)
    assert line.startswith("0.667 steps/s  21 rows/s  1,365 tokens/s  3.2% of a matmul's 1 TFLOP/s")


def test_without_known_work_steps_alone_are_told(clock):
    told = Throughput(None, 32, Ranks(), torch.float32)
    told.count()
    clock[0] += 0.5
    found = told.tell(1)
    assert found == {"steps_per_s": 2.0}
    assert throughput_line(found, 32) == "2 steps/s  64 rows/s"
