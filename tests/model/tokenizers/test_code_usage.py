import math

import pytest
import torch

from model.tokenizers.code_usage import CodeUsage, RecentUse, count_codes


def test_codes_are_counted_over_batches():
    usage = CodeUsage(5)
    for tokens in ([[0, 0], [1, 1]], [[4, 4], [4, 4]]):
        usage.update(count_codes(torch.tensor(tokens), 5))
    assert usage.counts.tolist() == [2, 2, 0, 0, 4]
    assert usage.share() == pytest.approx(3 / 5)
    assert usage.perplexity() == pytest.approx(math.exp(-2 * 0.25 * math.log(0.25) - 0.5 * math.log(0.5)))


def test_equally_frequent_codes_have_their_number_as_perplexity():
    usage = CodeUsage(64)
    usage.update(count_codes(torch.arange(48).repeat(10), 64))
    assert usage.perplexity() == pytest.approx(48)


def test_an_epochs_usage_goes_on_from_its_state_and_begins_anew():
    first, second, counts = CodeUsage(4), CodeUsage(4), count_codes(torch.tensor([0, 3, 3]), 4)
    first.update(counts)
    second.load_state_dict(first.state_dict())
    second.update(counts)
    assert (first.counts.tolist(), second.counts.tolist()) == ([1, 0, 0, 2], [2, 0, 0, 4])
    second.reset()
    assert second.share() == 0
    assert second.perplexity() == 1


def test_a_code_dies_when_it_was_not_used_for_long_and_is_spared_for_a_while():
    recent, only_first = RecentUse(3), torch.tensor([100, 0, 0])
    recent.update(torch.tensor([100, 2, 0]))
    assert recent.dead().tolist() == [2]
    for _ in range(40):
        recent.update(only_first)
    assert recent.dead().tolist() == [1, 2]
    recent.spare(torch.tensor([2]))
    assert recent.dead().tolist() == [1]
    resumed = RecentUse(3)
    resumed.load_state_dict(recent.state_dict())
    for _ in range(100):
        resumed.update(only_first)
    assert resumed.dead().tolist() == [1, 2]
