import numpy as np
import pytest
from published_checkpoints import noise_images

from model.tokenizers import Choices, load_tokenizer
from parti_data.errors import TokenizerError


@pytest.fixture
def clusters(tmp_path) -> np.ndarray:
    found = np.random.default_rng(0).uniform(-1, 1, (20, 3)).astype(np.float32)
    np.save(tmp_path / "kmeans_centers.npy", found)
    return found


def test_each_pixel_becomes_its_nearest_colour(tmp_path, clusters):
    tokenizer = load_tokenizer(str(tmp_path / "kmeans_centers.npy"))
    images = noise_images()
    tokens = tokenizer.encode(images)
    pixels = images.reshape(5, -1, 1, 3) / 127.5 - 1
    assert np.array_equal(tokens, np.square(pixels - clusters.astype(np.float64)).sum(-1).argmin(-1))
    colours = np.rint(127.5 * (clusters.astype(np.float64) + 1))
    assert np.array_equal(tokenizer.decode(tokens), colours[tokens].reshape(images.shape))
    assert tokenizer.spec[:6] == ("igpt", 20, 32, 32, (-1.0, 1.0), "resize_center")


def test_the_side_is_a_choice_and_marks_the_tokens(tmp_path, clusters):
    path = str(tmp_path)
    larger = load_tokenizer(path, choices=Choices(image_side=48))
    assert larger.spec.num_tokens == 2304
    assert larger.fingerprint != load_tokenizer(path).fingerprint
    moved = clusters + np.float32(1e-3)
    before = load_tokenizer(path).fingerprint
    np.save(tmp_path / "kmeans_centers.npy", moved)
    assert load_tokenizer(path).fingerprint != before


def test_the_lower_of_two_equal_colours_is_taken(tmp_path):
    np.save(tmp_path / "kmeans_centers.npy", np.array([[1, 1, 1], [0, 0, 0], [0, 0, 0]], np.float32))
    images = np.full((1, 4, 4, 3), 128, np.uint8)
    assert load_tokenizer(str(tmp_path)).encode(images).unique().tolist() == [1]


@pytest.mark.parametrize(
    "clusters", [np.zeros((0, 3), "f4"), np.full((4, 3), np.nan, "f4"), np.full((4, 3), 200, "u1")]
)
def test_colours_that_are_none_are_refused(tmp_path, clusters):
    np.save(tmp_path / "kmeans_centers.npy", clusters)
    with pytest.raises(
        TokenizerError, match="expected colours from -1 to 1, found . colours, none or others; give the"
    ):
        load_tokenizer(str(tmp_path))


def test_another_array_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 5), np.float32))
    with pytest.raises(TokenizerError, match=r"expected one array \(codes, 3\), found other; give kmeans_centers.npy"):
        load_tokenizer(str(tmp_path / "a.npy"), kind="igpt")
