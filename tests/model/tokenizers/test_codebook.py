import numpy as np
import torch

from model.tokenizers.codebook import Codebook


def test_the_codes_gradient_is_the_same_in_every_run_on_two_threads():
    torch.manual_seed(0)
    codebook, tokens, slope = Codebook(256, 16), torch.randint(256, (64, 64)), torch.randn(64, 64, 16)
    threads, gradients = torch.get_num_threads(), []
    try:
        torch.set_num_threads(2)
        for _ in range(6):
            (gradient,) = torch.autograd.grad((codebook.lookup(tokens) * slope).sum(), codebook.embedding)
            gradients.append(gradient)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


def test_the_codebook_picks_the_nearest_code_by_cosine():
    torch.manual_seed(0)
    codebook, latents = Codebook(64, 8), torch.randn(2, 5, 8)
    codes = codebook.embedding.detach().double().numpy()
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    wanted = (latents.double().numpy() @ codes.T).argmax(-1)
    assert codebook.nearest(latents).numpy().tolist() == wanted.tolist()


def test_equal_codes_go_to_the_lowest_index():
    codebook = Codebook(8, 4)
    with torch.no_grad():
        codebook.embedding.copy_(torch.ones(8, 4))
    assert codebook.nearest(torch.ones(1, 3, 4)).tolist() == [[0, 0, 0]]


def test_the_quantizer_stays_in_float32_under_autocast():
    torch.manual_seed(1)
    codebook, latents = Codebook(512, 8), torch.randn(4, 64, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codebook.nearest(latents), codebook.nearest(latents.float()))
        found = codebook.nearest(latents)
    assert torch.equal(found, codebook.nearest(latents))


def test_gradients_pass_straight_through_the_codebook():
    torch.manual_seed(2)
    codebook, latents = Codebook(16, 4), torch.randn(1, 3, 4, requires_grad=True)
    weights = torch.randn(1, 3, 4)
    (codebook(latents).codes * weights).sum().backward()
    reference = latents.detach().clone().requires_grad_()
    (torch.nn.functional.normalize(reference, dim=-1) * weights).sum().backward()
    torch.testing.assert_close(latents.grad, reference.grad)


def test_codes_start_at_latents_that_lie_far_apart():
    codebook, generator = Codebook(4, 2), torch.Generator().manual_seed(0)
    corners = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    codebook.initialise(corners.repeat(50, 1) * 3, generator)
    assert {tuple(code) for code in codebook.embedding.detach().round().int().tolist()} == {
        (1, 0),
        (0, 1),
        (-1, 0),
        (0, -1),
    }


def test_restarted_codes_move_to_latents_that_are_badly_served():
    codebook = Codebook(3, 2)
    with torch.no_grad():
        codebook.embedding.copy_(torch.tensor([[1.0, 0], [1, 0], [1, 0]]))
    latents = torch.tensor([[1.0, 0]] * 50 + [[-1.0, 0]])
    codebook.restart(torch.tensor([2]), latents, torch.Generator().manual_seed(0))
    assert codebook.embedding[2].tolist() == [-1, 0]
    assert codebook.embedding[:2].tolist() == [[1, 0], [1, 0]]


def test_more_dead_codes_than_latents_are_restarted_as_far_as_they_reach():
    torch.manual_seed(4)
    codebook = Codebook(6, 2)
    before = codebook.embedding.detach().clone()
    moved = codebook.restart(torch.arange(1, 6), torch.randn(3, 2), torch.Generator().manual_seed(0))
    assert moved.tolist() == [1, 2, 3]
    assert (codebook.embedding != before).any(-1).tolist() == [False, True, True, True, False, False]


def test_nothing_is_restarted_when_no_code_is_dead():
    codebook = Codebook(6, 2)
    before = codebook.embedding.detach().clone()
    none = codebook.restart(torch.arange(0), torch.randn(3, 2), torch.Generator().manual_seed(0))
    assert not len(none)
    assert torch.equal(codebook.embedding, before)


def test_a_restart_far_from_codes_does_not_depend_on_how_many_latents_are_compared_at_once(monkeypatch):
    from model.tokenizers import codebook as module

    torch.manual_seed(5)
    latents, books = torch.randn(50, 4), []
    for rows in (8192, 7):
        monkeypatch.setattr(module, "_ROWS_AT_ONCE", rows)
        torch.manual_seed(6)
        books.append(Codebook(20, 4))
        books[-1].restart(torch.arange(5), latents, torch.Generator().manual_seed(0))
    torch.testing.assert_close(books[0].embedding, books[1].embedding)
