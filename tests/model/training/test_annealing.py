import math

import pytest
from pydantic import ValidationError

from model.training.dvae_config import KLWeight, Temperature


@pytest.mark.parametrize(
    ("annealing", "start", "end", "num_steps"), [(Temperature(), 1.0, 0.0625, 150_000), (KLWeight(), 0.0, 6.6, 5000)]
)
def test_the_papers_annealings_go_along_half_a_cosine_and_stay(annealing, start, end, num_steps):
    for quarter, share in ((0, 0.0), (1, (1 - math.sqrt(0.5)) / 2), (2, 0.5), (3, (1 + math.sqrt(0.5)) / 2), (4, 1.0)):
        wanted = start + share * (end - start)
        assert annealing.value_at(quarter * num_steps // 4) == pytest.approx(wanted, rel=1e-12, abs=1e-15)
    assert annealing.value_at(3_000_000) == end


def test_a_change_of_its_length_alone_keeps_the_papers_values():
    short = Temperature.model_validate({"num_steps": 10})
    assert (short.value_at(0), short.value_at(5), short.value_at(10)) == (1.0, 0.53125, 0.0625)


@pytest.mark.parametrize(
    ("kind", "wrong"), [(Temperature, {"end": 0.0}), (KLWeight, {"start": -1.0}), (KLWeight, {"num_steps": 0})]
)
def test_an_annealing_that_cannot_be_is_refused(kind, wrong):
    with pytest.raises(ValidationError, match="greater than"):
        kind(**wrong)
