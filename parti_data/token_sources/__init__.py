"""Where tokens come from that another project made. Each kind of source is one file here, named by its `kind`."""

from typing import Annotated

from pydantic import Field

from parti_data.token_sources.dalle_mini import DalleMiniSource
from parti_data.token_sources.llamagen import LlamaGenSource
from parti_data.token_sources.npy_tars import NpyTarsSource
from parti_data.token_sources.rar import RarSource

TokenSource = Annotated[
    DalleMiniSource | LlamaGenSource | RarSource | NpyTarsSource,
    Field(discriminator="kind"),
]
"""A config's `source` table."""

__all__ = ["DalleMiniSource", "LlamaGenSource", "NpyTarsSource", "RarSource", "TokenSource"]
