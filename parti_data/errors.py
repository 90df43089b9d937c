"""What can go wrong and whose it is to mend: every error a user can fix derives from `PartiError`.

PartiError
├── ConfigError       a config file, an override or an option
├── SourceError       image-text pairs that cannot be read
├── StorageError      an object store that cannot be reached, or refuses, or a cache that cannot hold what it has
├── ShardError        a stage's directory, a ledger, a shard or a token shard
├── TokenizerError    an image or text tokenizer that does not fit
├── CheckpointError   weights or training state that cannot be read
├── EngineError       a Beam engine that cannot be reached, or whose job failed
└── RankError         one of the processes that train together that is gone

Messages are one line: "where: expected, found; remedy". A bad row is never an error: it is an outcome in the ledger.
"""


class PartiError(Exception):
    """Something that the user can mend; its message says where and how."""


class ConfigError(PartiError):
    """A config file, an override or an option is wrong."""


class SourceError(PartiError):
    """Image-text pairs cannot be read from where they should be."""


class StorageError(PartiError):
    """An object store cannot be reached, or refuses, or the cache cannot hold what it has."""


class ShardError(PartiError):
    """A stage's directory, a ledger, a shard or a token shard is not what it should be."""


class TokenizerError(PartiError):
    """An image or text tokenizer does not fit what it is used with."""


class CheckpointError(PartiError):
    """Weights or training state cannot be read, or belong to another run."""


class EngineError(PartiError):
    """A Beam engine cannot be reached, or a job on it failed."""


class RankError(PartiError):
    """One of the processes that train together is gone."""
