"""How the processes that train together begin in one output: the first one begins, the others find that it did."""

from collections.abc import Callable

from model.training.ranks import Ranks
from parti_data.manifest import BEGUN, Manifest, StageDirectory, read_manifest
from parti_data.storage import is_file, join


def begin_on_ranks(
    ranks: Ranks, output: str, begin: Callable[[], StageDirectory | Manifest]
) -> StageDirectory | Manifest | None:
    """Return the directory to fill on the first rank and none on the others, or on all the manifest of a finished one.

    Raises RankError, on every rank, where they do not share the output: a checkpoint of which each machine has a share
    could not be read again.
    """
    begun = begin() if ranks.is_first else None
    is_finished = ranks.from_first(isinstance(begun, Manifest))
    ranks.refuse_differing(output, BEGUN, int(is_file(join(output, BEGUN))))
    return read_manifest(output) if is_finished else begun
