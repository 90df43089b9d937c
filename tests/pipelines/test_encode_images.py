import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from model.tokenizers import Execution, Reading, open_network
from parti_data.errors import ShardError, TokenizerError
from parti_data.ledger import PairDirectory
from parti_data.manifest import read_manifest
from parti_data.quality import QualityFloors
from parti_data.storage import is_file
from parti_data.token_shard import ShardMetadata, order_hash, token_schema
from pipelines import encode_images
from pipelines.encode_images import EncodePlan, Encoding, encode_rows, encode_slice, fragment_path, open_tokenizers
from pipelines.slice_gate import read_quality
from pipelines.token_fragments import read_fragment


@pytest.fixture
def encoding(tokens, filtered, image_file, text_file, tmp_path) -> Encoding:
    metadata = ShardMetadata.model_validate(read_manifest(tokens).details["metadata"])
    floors = QualityFloors(sample=2, min_psnr_db=0.0)
    return Encoding(filtered, image_file, text_file, metadata, 3, 0, str(tmp_path), quality=floors)


def test_a_fragment_has_rows_for_each_shard_as_it_will_hold_them(encoding):
    assert encode_slice(EncodePlan(4, 10, 40), encoding) == 4
    tables = [read_fragment(fragment_path(encoding.output, 4), shard) for shard in range(3)]
    assert all(table.schema.equals(token_schema(encoding.metadata), check_metadata=True) for table in tables)
    shards = [[order_hash(key, 0, encoding.seed) % 3 for key in table.column("key").to_pylist()] for table in tables]
    assert [set(found) for found in shards] == [{0}, {1}, {2}]
    assert sum(len(found) for found in shards) == 30


def test_a_fragment_that_is_there_is_not_made_again(encoding, contents):
    encode_slice(EncodePlan(0, 0, 5), encoding)
    before = contents(encoding.output)
    encode_slice(EncodePlan(0, 0, 9), encoding)
    assert contents(encoding.output) == before


def test_a_row_has_the_same_ids_alone_and_in_a_batch(filtered, image_file, text_file):
    pairs, tokenizers = PairDirectory(filtered), open_tokenizers(image_file, text_file)
    together = list(encode_rows(pairs, pairs.kept(), *tokenizers))
    size = tokenizers[0].batch_size
    assert len(together) > size
    for number in (0, 1, size - 1, size, len(together) - 1):
        (alone,) = encode_rows(pairs, pairs.kept(number, number + 1), *tokenizers)
        assert alone.key == together[number].key
        np.testing.assert_array_equal(alone.image_tokens, together[number].image_tokens)


def test_tokenizers_are_loaded_once_as_long_as_their_files_stay_the_same(tmp_path, make_image_file, text_file):
    path = make_image_file(tmp_path / "own.safetensors", 0)
    first = open_tokenizers(path, text_file)
    assert open_tokenizers(path, text_file)[0] is first[0]
    make_image_file(tmp_path / "own.safetensors", 1)
    assert open_tokenizers(path, text_file)[0].fingerprint != first[0].fingerprint


def test_threads_of_a_process_share_one_network(tmp_path, make_image_file, text_file, monkeypatch):
    path = make_image_file(tmp_path / "own.safetensors", 0)
    loaded, started = [], threading.Barrier(4)

    def load(path: str, reading: Reading):
        loaded.append(path)
        time.sleep(0.05)  # long enough for the others to come
        return open_network(path, reading)

    def open_at_once(_: int):
        started.wait()
        return open_tokenizers(path, text_file)[0]

    monkeypatch.setattr(encode_images, "open_network", load)
    with ThreadPoolExecutor(4) as threads:
        tokenizers = list(threads.map(open_at_once, range(4)))
    assert loaded == [path]
    assert all(tokenizer is tokenizers[0] for tokenizer in tokenizers)


def test_a_run_in_another_precision_reads_the_weights_once(tmp_path, encoding, make_image_file, monkeypatch):
    path = make_image_file(tmp_path / "own.safetensors", 0)
    loaded = []

    def load(path: str, reading: Reading):
        loaded.append(path)
        return open_network(path, reading)

    monkeypatch.setattr(encode_images, "open_network", load)
    found, _ = open_tokenizers(path, encoding.text_tokenizer)  # as where the pipeline is made
    metadata = encoding.metadata.model_copy(update={"image_tokenizer": found.fingerprint})
    changes = {"image_tokenizer": path, "metadata": metadata, "execution": Execution(precision="bfloat16")}
    encode_slice(EncodePlan(0, 0, 5), encoding._replace(**changes))
    assert read_quality(fragment_path(encoding.output, 0)).precision is not None  # the record was asked too
    assert loaded == [path]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(encoding):
    with pytest.raises(
        TokenizerError, match="^execution.device=cuda: expected a GPU where images are encoded or decoded, found"
    ):
        encode_slice(EncodePlan(0, 0, 5), encoding._replace(execution=Execution(device="cuda")))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_is_used_where_it_is_asked_for(image_file, text_file):
    image_tokenizer, _ = open_tokenizers(image_file, text_file, Execution(device="cuda"))
    assert {parameter.device.type for parameter in image_tokenizer._network.parameters()} == {"cuda"}


def test_pairs_that_were_changed_during_the_run_are_refused(encoding):
    metadata = encoding.metadata.model_copy(update={"input_digest": "ef" * 32})
    with pytest.raises(ShardError, match=r"expected the manifest efefefefefef that the run began with, found"):
        encode_slice(EncodePlan(0, 0, 5), encoding._replace(metadata=metadata))
    assert not is_file(fragment_path(encoding.output, 0))


@pytest.mark.parametrize("name", ["image_tokenizer", "text_tokenizer"])
def test_a_tokenizer_that_was_replaced_during_the_run_is_refused(encoding, name, contents):
    metadata = encoding.metadata.model_copy(update={name: "ef" * 32})
    with pytest.raises(
        TokenizerError, match=r"expected the tokenizer efefefefefef that the run began with, found \w{12}; put"
    ):
        encode_slice(EncodePlan(0, 0, 5), encoding._replace(metadata=metadata))
    assert contents(encoding.output) == {}
