"""The file of a published tokenizer, opened without running anyone's code: its tensors find the family."""

from torch import Tensor

from model.checkpoints import open_checkpoint, read_model_config, shown, stored_names
from model.tokenizers.choices import Choices
from model.tokenizers.families import Family, ModelConfig, Published, find_family
from model.tokenizers.network import TokenizerNetwork
from parti_data.errors import TokenizerError
from parti_data.storage import is_directory, is_file, join, list_directory

_PREFIXES = ("gen_vision_model.", "model.vqmodel.", "vqmodel.", "first_stage_model.", "params.", "module.")
"""What a tokenizer's tensors begin with inside Janus, transformers' Janus and models of latents; what flax may put
above all; and what torch does where processes train together."""
_FILES = (
    "model.safetensors", "flax_model.msgpack", "pytorch_model.bin", "model.ckpt", "last.ckpt", "vqgan.ckpt",
    "imagenet_vitvq.ckpt", "encoder.pkl", "kmeans_centers.npy", "clusters.npy",
)  # fmt: skip
"""What the checkpoint of a folder may be called, the first that is there."""
_CONFIGS = ("config.yaml", "config.json", "model.yaml")
_KEYS_SHOWN = 5
_ENCODER, _DECODER = "encoder.pkl", "decoder.pkl"


def read_published_tokenizer(path: str, config: str, kind: str, choices: Choices) -> TokenizerNetwork:
    """Return the network in a published file or folder; raises TokenizerError or CheckpointError."""
    files = published_files(path)
    prefix = choices.prefix or _find_prefix(files[0], choices.weights)
    tensors = _read_tensors(files, choices.weights, prefix)
    family = find_family(tensors, kind, path)
    return family.build(Published(path, tensors, _find_config(path, config, family), choices, prefix))


def published_files(path: str) -> list[str]:
    """Return the files that hold a tokenizer's tensors: one, or the dVAE's two; raises TokenizerError."""
    file = _in_folder(path) if is_directory(path) else path
    folder, _, name = file.rpartition("/")
    if name == _DECODER:
        raise TokenizerError(f"{path}: expected {_ENCODER}, found the decoder; it is read from beside the encoder")
    beside = f"{folder}/{_DECODER}" if folder else _DECODER
    return [file, beside] if name == _ENCODER and is_file(beside) else [file]


def _in_folder(path: str) -> str:
    there = set(list_directory(path))
    found = [name for name in _FILES if name in there]
    if not found:
        raise TokenizerError(f"{path}: expected one of {', '.join(_FILES)}, found none; name the file in it")
    return join(path, found[0])


def _find_prefix(file: str, weights: str) -> str:
    names = stored_names(file, weights)
    return next((prefix for prefix in _PREFIXES if any(name.startswith(prefix) for name in names)), "")


def _read_tensors(files: list[str], weights: str, prefix: str) -> dict[str, Tensor]:
    """Return the tensors of a file; of the dVAE's two, and of its encoder alone, under `encoder.` and `decoder.`."""
    opened = [open_checkpoint(file, weights, prefix=prefix).tensors for file in files]
    if len(opened) == 1 and not any(name.startswith("blocks.") for name in opened[0]):
        return opened[0]
    halves = zip(("encoder.", "decoder."), opened, strict=False)
    return {half + name: tensor for half, tensors in halves for name, tensor in tensors.items()}


def config_files(path: str, config: str) -> list[str]:
    """Return the config named, or those of a usual name beside the checkpoint."""
    if config:
        return [config]
    folder, _, name = published_files(path)[0].rpartition("/")
    stem = name.rpartition(".")[0]
    beside = [f"{folder}/{usual}" if folder else usual for usual in (f"{stem}.yaml", f"{stem}.json", *_CONFIGS)]
    return [file for file in beside if is_file(file)]


def _find_config(path: str, config: str, family: Family) -> ModelConfig | None:
    """Return the config named, or the first beside the file that has the family's layout."""
    for file in config_files(path, config):
        values = read_model_config(file)
        if family.describes(values):
            return ModelConfig(file, values)
        if config:
            raise TokenizerError(
                f"{config}: expected a config of {family.name}, found {_keys(values)}"
                "; give the one published with the weights, or none"
            )
    return None


def _keys(values: dict) -> str:
    return ", ".join(shown(key) for key in list(values)[:_KEYS_SHOWN]) or "none"
