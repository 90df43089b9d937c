from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.priors.dalle import DALLE, DALLEShape
from model.priors.prior import drop_condition
from model.priors.prior_file import load_prior, save_prior
from model.shapes import make_shape
from model.training.loop import Evaluation, train
from model.training.train_prior import TrainPriorConfig
from model.weights import write_weights
from parti_data.errors import CheckpointError, ConfigError
from parti_data.text import END, PAD

PAPER = Path(__file__).parents[3] / "configs" / "train" / "dalle_12b.toml"
SPARSE = DALLEShape(
    text_vocabulary_size=32, max_text_length=6, codebook_size=64, grid_side=4, width=32, hidden=64, num_heads=2,
    num_layers=4, kernel_side=3,
)  # fmt: skip
SHAPES = {"sparse": SPARSE, "dense": replace(SPARSE, image_attention="dense", num_layers=2)}
TEXT = torch.tensor([[5, 6, 7, END, PAD], [8, 9, 10, 11, END]])
TOKENS = torch.randint(0, 64, (2, 16), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=SHAPES)
def model(request):
    torch.manual_seed(0)
    return DALLE(SHAPES[request.param]).eval()


def sees(kind: str, query: int, key: int) -> bool:
    """Whether a place of the stream of 6 text positions and 4x4 tokens sees another, in DALL-E's words.

    Source: appendix B.1 and figure 11, with a kernel of 3.
    """
    if key > query or query < 6 or key < 6 or kind == "dense":
        return key <= query
    (row, column), (key_row, key_column) = divmod(query - 6, 4), divmod(key - 6, 4)
    return {
        "row": (key_row, key_column) >= (row - 1, column),
        "column": key_column == column,
        "conv": row - key_row <= 1 and abs(column - key_column) <= 1,
    }[kind]


def masks_of(shape: DALLEShape) -> list[np.ndarray]:
    """The mask of each layer over the 6 + 15 places that are read, entry by entry."""
    kinds = ["row", "column", "row", "conv"] if shape.image_attention == "sparse" else ["dense"] * 2
    return [np.array([[sees(kind, query, key) for key in range(21)] for query in range(21)]) for kind in kinds]


def test_what_is_told_depends_on_what_the_masks_reach_and_never_on_itself_or_the_future(model):
    model, reached = model.double(), np.eye(21, dtype=int)
    for mask in masks_of(model.shape):
        reached = mask.astype(int) @ reached
    text = model.embed_prefix(TEXT).detach().requires_grad_()
    image = model.token_embedding(TOKENS).detach().requires_grad_()
    model.embed_prefix = lambda condition: text  # the Jacobian needs the embeddings
    model.token_embedding.forward = lambda before: image[:, : before.shape[1]]
    states = model.states(TEXT, TOKENS)
    for place in range(21):
        of_text, of_image = torch.autograd.grad(states[:, place].square().sum(), [text, image], retain_graph=True)
        seen = torch.cat([of_text, of_image[:, :-1]], 1).abs().sum((0, 2)) > 0
        assert np.array_equal(seen.numpy(), reached[place] > 0), place
        assert not of_image[:, max(place - 5, 0) :].any(), place  # place 5 + j tells token j
    logits = model(TEXT, TOKENS)
    torch.testing.assert_close(logits, model.tell(states[:, 5:]))


def test_cached_decoding_equals_uncached_with_positions_filled_at_once_or_not(model, compare_steps):
    compare_steps(model, TEXT, TOKENS)


def losses_in_float64(weights: dict, shape: DALLEShape) -> dict[str, torch.Tensor]:
    """The losses of TEXT and TOKENS by a network written out anew."""
    rows = []
    for text, tokens in zip(TEXT.tolist(), TOKENS.tolist(), strict=True):
        ids = [*text, PAD]
        read = [weights["padding"][p] if i == PAD else weights["text_embedding.weight"][i] for p, i in enumerate(ids)]
        read = [vector + weights["text_positions"][place] for place, vector in enumerate(read)]
        for place, token in enumerate(tokens[:-1]):
            where = weights["row_positions"][place // 4] + weights["column_positions"][place % 4]
            read.append(weights["token_embedding.weight"][token] + where)
        x = torch.stack(read)
        for layer, mask in enumerate(masks_of(shape)):
            start = f"decoder.{layer}."
            x = block_in_float64(x, {n.removeprefix(start): w for n, w in weights.items() if n.startswith(start)}, mask)
        rows.append(norm(x, weights, "decoder_norm"))
    text_nats, image_nats = [], []
    for x, text, tokens in zip(rows, TEXT.tolist(), TOKENS.tolist(), strict=True):
        for place, told in enumerate(text[1:]):
            if told != PAD:
                text_nats.append(nats(weights["to_text_logits.weight"] @ x[place], told))
        image_nats += [nats(weights["to_logits.weight"] @ x[5 + place], told) for place, told in enumerate(tokens)]
    assert (len(text_nats), len(image_nats)) == (3 + 4, 32)
    text_mean, image_mean = torch.stack(text_nats).mean(), torch.stack(image_nats).mean()
    rows_of_image = torch.stack(image_nats).reshape(2, 16).mean(1)
    return {"text": text_mean, "image": image_mean, "total": text_mean / 8 + 7 * image_mean / 8, "rows": rows_of_image}


def nats(logits: torch.Tensor, told: int) -> torch.Tensor:
    return logits.exp().sum().log() - logits[told]


def norm(x: torch.Tensor, weights: dict, name: str) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def block_in_float64(x: torch.Tensor, weights: dict, mask: np.ndarray) -> torch.Tensor:
    """What a block of two heads of 16 channels and a GELU makes of x (N, 32)."""
    queries, keys, values = (norm(x, weights, "self_norm") @ weights["self_attention.to_qkv.weight"].T).chunk(3, -1)
    places = []
    for place in range(len(x)):
        seen = np.flatnonzero(mask[place])
        heads = []
        for head in (slice(0, 16), slice(16, 32)):
            scores = (keys[seen, head] @ queries[place, head] / 4).exp()
            heads.append(scores @ values[seen, head] / scores.sum())
        places.append(torch.cat(heads))
    x = x + torch.stack(places) @ weights["self_attention.to_out.weight"].T
    hidden = norm(x, weights, "feed_forward_norm") @ weights["feed_forward.0.weight"].T + weights["feed_forward.0.bias"]
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    return x + hidden @ weights["feed_forward.2.weight"].T + weights["feed_forward.2.bias"]


def test_losses_are_those_of_an_independent_float64_network(model):
    wanted = losses_in_float64({name: tensor.double() for name, tensor in model.state_dict().items()}, model.shape)
    found = model.losses(TEXT, TOKENS)
    assert found.keys() == {"total", "text", "image"}
    for name, value in found.items():
        assert value.item() == pytest.approx(wanted[name].item(), abs=1e-5), name
    torch.testing.assert_close(model.row_losses(TEXT, TOKENS), wanted["rows"], atol=1e-5, rtol=0)


class OneBatch:
    """A trainee that learns TEXT and TOKENS."""

    num_parts, batch_size, work = 1, 2, None

    def __init__(self, model: DALLE):
        self.model, self.networks = model, {"model": model}

    def losses(self, network, step, part):
        return self.model.losses(TEXT, TOKENS)

    def after_step(self, step):
        pass

    def evaluate(self, step):
        return Evaluation({}, {})

    def keys(self, step):
        return ["a", "b"]

    def state_dict(self):
        return {}


def test_steps_of_the_papers_optimizer_are_those_written_out_in_float64(tmp_path, monkeypatch):
    """Source: appendix B.2: AdamW of 0.9 and 0.96, epsilon 1e-8, decay 4.5e-2 of matrices, a gradient of at most 4.

    Two steps, since the length of the first one's gradient cancels out of the first update.
    """
    torch.manual_seed(0)
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)  # logits stay in float64
    model = DALLE(SPARSE).double()
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    moments = {name: (torch.zeros_like(weight), torch.zeros_like(weight)) for name, weight in weights.items()}
    for step in (1, 2):
        weights = {name: weight.requires_grad_() for name, weight in weights.items()}
        losses_in_float64(weights, SPARSE)["total"].backward()
        length = sum(float(weight.grad.square().sum()) for weight in weights.values()) ** 0.5  # type: ignore[union-attr]
        assert length > 4
        for name, weight in weights.items():
            gradient, (mean, square) = weight.grad * 4 / length, moments[name]  # type: ignore[operator]
            mean, square = 0.9 * mean + 0.1 * gradient, 0.96 * square + 0.04 * gradient.square()
            moments[name] = mean, square
            kept = 1 - 4.5e-4 * 0.045 if weight.dim() > 1 else 1.0
            moved = (mean / (1 - 0.9**step)) / ((square / (1 - 0.96**step)).sqrt() + 1e-8)
            weights[name] = (kept * weight - 4.5e-4 * moved).detach()
    words = ["schedule.num_steps=2", "schedule.warmup_steps=0", "schedule.precision=float32", "schedule.decay=constant"]
    words.append("schedule.final_lr_ratio=0")
    train(OneBatch(model), TrainPriorConfig.load(str(PAPER), words).schedule, str(tmp_path), "train")
    for name, found in model.state_dict().items():
        torch.testing.assert_close(found, weights[name], atol=1e-8, rtol=1e-6)


def test_each_position_without_text_reads_a_vector_of_its_own(model):
    padded = F.pad(TEXT, (0, 1), value=PAD)
    torch.testing.assert_close(model(TEXT, TOKENS), model(padded, TOKENS))
    read = model.embed_prefix(TEXT)
    torch.testing.assert_close(read[0, 4:], (model.padding + model.text_positions)[4:])
    torch.testing.assert_close(read[1, 4], model.text_embedding.weight[END] + model.text_positions[4])
    with torch.no_grad():
        model.padding[5] += 1
    assert not torch.allclose(model.embed_prefix(TEXT)[:, 5], read[:, 5])
    torch.testing.assert_close(model.embed_prefix(TEXT)[:, :5], read[:, :5])


def test_dropped_text_is_padding_alone_and_tells_no_text(model):
    dropped = drop_condition(model, TEXT, torch.tensor([False, True]))
    assert dropped.tolist() == [TEXT[0].tolist(), [PAD] * 5]
    assert torch.equal(dropped[1:], model.without(TEXT[1:]))
    nothing = model.losses(model.without(TEXT), TOKENS)
    assert nothing["text"].item() == 0
    assert nothing["total"].item() == pytest.approx(nothing["image"].item() * 7 / 8)
    nothing["total"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_gradients_reach_every_weight_that_a_batch_reads(model):
    model.losses(TEXT, TOKENS)["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_saved_prior_is_the_same_prior(shape, metadata, tmp_path):
    torch.manual_seed(0)
    model, path = DALLE(shape).eval(), str(tmp_path / "prior.safetensors")
    save_prior(model, metadata, path)
    loaded = load_prior(path).model
    assert (loaded.shape, loaded.reads) == (shape, "text")
    assert torch.equal(loaded(TEXT, TOKENS), model(TEXT, TOKENS))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_text_length": 1 << 13}, "a header of 4 layers, 8192 positions before a grid side of 4"),
        ({"num_layers": 1 << 12}, "a header of 4096 layers"),
    ],
)
def test_a_header_that_asks_for_too_much_is_refused_before_it_takes_memory(fields, message, tmp_path):
    header = {"kind": "dalle", "shape": vars(SPARSE) | fields, "image_tokenizer": "aa", "text_tokenizer": "bb"}
    write_weights(str(tmp_path / "x"), DALLE(SPARSE), header)
    with pytest.raises(CheckpointError, match=message):
        load_prior(str(tmp_path / "x"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_text_length": 1}, "architecture.max_text_length: expected at least 2, found 1; raise it"),
        ({"kernel_side": 2}, "architecture.kernel_side: expected an odd number from 1, found 2; change it"),
        ({"num_layers": 0}, "architecture.num_layers: expected at least 1, found 0; raise it"),
    ],
)
def test_an_architecture_that_does_not_fit_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        replace(SPARSE, **fields)


def test_text_is_never_cut_in_silence(model):
    with pytest.raises(AssertionError):
        model(torch.full((2, 7), 5), TOKENS)


def test_the_papers_size_has_twelve_billion_weights():
    """Source: appendix B.1: 64 layers, 62 heads of 64 channels."""
    config = TrainPriorConfig.load(str(PAPER), [])
    shape = make_shape(DALLEShape, config.architecture)
    assert (shape.num_layers, shape.num_heads, shape.head_width, shape.kernel_side) == (64, 62, 64, 11)
    with torch.device("meta"):
        model = DALLE(shape)
    width, layers = shape.width, shape.num_layers
    matrices = sum(parameter.numel() for parameter in model.decoder.parameters() if parameter.dim() == 2)
    assert matrices == 12 * layers * width**2
    assert matrices / 1e9 == pytest.approx(12.09, abs=0.005)
    vectors = layers * (4 * width + 5 * width) + 2 * width  # two norms and the feed-forward's biases; the last norm
    num_embeddings = 2 * (16_384 + 8192 + 256 + 32)  # ids and tokens, in and out; places of ids and of none; of tokens
    assert sum(parameter.numel() for parameter in model.parameters()) == matrices + vectors + num_embeddings * width
