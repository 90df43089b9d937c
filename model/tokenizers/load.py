"""One way to open every image tokenizer."""

from model.tokenizers.choices import Choices, Reading
from model.tokenizers.execution import Execution
from model.tokenizers.network import TokenizerNetwork
from model.tokenizers.own_file import read_own_tokenizer
from model.tokenizers.published_file import config_files, published_files, read_published_tokenizer
from model.tokenizers.tokenizer import ImageTokenizer
from model.weights import has_header
from parti_data.errors import TokenizerError
from parti_data.storage import is_directory, is_file


def load_tokenizer(
    path: str,
    config: str | None = None,
    kind: str | None = None,
    choices: Choices | None = None,
    execution: Execution | None = None,
) -> ImageTokenizer:
    """Return the tokenizer in a file of ours, or in a file or folder as another project published it.

    `kind` is a family of `model.tokenizers.families`; without, the names of the tensors tell it. `config` is the YAML
    or JSON that the project publishes. Without, one beside the file is taken if it is called config.yaml, config.json,
    model.yaml or as the file is, and has the family's layout; else the shapes of the tensors tell the architecture, and
    what they do not tell is as in the family's published models: see the docstring of its file. `choices` are what no
    file says. Raises TokenizerError, of a config the first tensor that does not fit it, or CheckpointError.
    """
    network = _read(path, config or "", kind or "", choices or Choices())
    return ImageTokenizer(network, execution)


def open_tokenizer(path: str, reading: Reading, execution: Execution | None = None) -> ImageTokenizer:
    """Return what `load_tokenizer` does, told by a config."""
    return ImageTokenizer(open_network(path, reading), execution)


def open_network(path: str, reading: Reading) -> TokenizerNetwork:
    """Return the network of what `open_tokenizer` gives, for several tokenizers to share."""
    return _read(path, reading.config, reading.kind, reading)


def tokenizer_files(path: str, reading: Reading) -> list[str]:
    """Return the files that decide what `open_tokenizer` gives."""
    if not is_file(path) and not is_directory(path):
        return [path]
    if not is_directory(path) and has_header(path):
        return [path]
    return [*published_files(path), *config_files(path, reading.config)]


def _read(path: str, config: str, kind: str, choices: Choices) -> TokenizerNetwork:
    if not is_file(path) and not is_directory(path):
        raise TokenizerError(f"{path}: expected a tokenizer file, found none; make one with parti train tokenizer")
    if is_directory(path) or not has_header(path):
        return read_published_tokenizer(path, config, kind, choices)
    network = read_own_tokenizer(path)
    if config or kind not in ("", network.spec.name) or choices.model_dump(exclude_defaults=True):
        raise TokenizerError(
            f"{path}: expected no config, kind or choices for a tokenizer of ours, found some; it says all"
        )
    return network
