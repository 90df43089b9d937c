import numpy as np
import pytest

from model.tokenizers.tokenizer import BATCH_SIZE
from parti_data.errors import TokenizerError
from parti_data.ledger import PairDirectory
from parti_data.manifest import read_manifest
from parti_data.token_shard import ShardMetadata, read_metadata
from pipelines.encode_images import EncodePlan, Encoding, encode_rows, encode_slice, fragment_path, open_tokenizers


@pytest.fixture
def encoding(tokens, filtered, image_file, text_file, tmp_path) -> Encoding:
    metadata = ShardMetadata.model_validate(read_manifest(tokens).details["metadata"])
    return Encoding(filtered, image_file, text_file, metadata, 3, 0, str(tmp_path))


def test_a_fragment_has_a_row_group_for_each_shard(encoding):
    assert encode_slice(EncodePlan(4, 10, 40), encoding) == 4
    metadata, groups = read_metadata(fragment_path(encoding.output, 4))
    assert metadata == encoding.metadata
    assert (len(groups), sum(groups)) == (3, 30)


def test_a_fragment_that_is_there_is_not_made_again(encoding, contents):
    encode_slice(EncodePlan(0, 0, 5), encoding)
    before = contents(encoding.output)
    encode_slice(EncodePlan(0, 0, 9), encoding)
    assert contents(encoding.output) == before


def test_a_row_has_the_same_ids_alone_and_in_a_batch(filtered, image_file, text_file):
    pairs, tokenizers = PairDirectory(filtered), open_tokenizers(image_file, text_file)
    together = list(encode_rows(pairs, pairs.kept(), *tokenizers))
    assert len(together) > BATCH_SIZE
    for number in (0, 1, BATCH_SIZE - 1, BATCH_SIZE, len(together) - 1):
        (alone,) = encode_rows(pairs, pairs.kept(number, number + 1), *tokenizers)
        assert alone.key == together[number].key
        np.testing.assert_array_equal(alone.image_tokens, together[number].image_tokens)


def test_tokenizers_are_loaded_once_as_long_as_their_files_stay_the_same(tmp_path, make_image_file, text_file):
    path = make_image_file(tmp_path / "own.safetensors", 0)
    first = open_tokenizers(path, text_file)
    assert open_tokenizers(path, text_file)[0] is first[0]
    make_image_file(tmp_path / "own.safetensors", 1)
    assert open_tokenizers(path, text_file)[0].fingerprint != first[0].fingerprint


@pytest.mark.parametrize("name", ["image_tokenizer", "text_tokenizer"])
def test_a_tokenizer_that_was_replaced_during_the_run_is_refused(encoding, name, contents):
    metadata = encoding.metadata.model_copy(update={name: "ef" * 32})
    with pytest.raises(
        TokenizerError, match=r"expected the tokenizer efefefefefef that the run began with, found \w{12}; put"
    ):
        encode_slice(EncodePlan(0, 0, 5), encoding._replace(metadata=metadata))
    assert contents(encoding.output) == {}
