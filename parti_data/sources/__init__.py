"""Where image-text pairs come from. Each kind of source is one file here, named in a config by its `kind`."""

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from parti_data.sources.coco import CocoSource
from parti_data.sources.folder import FolderSource
from parti_data.sources.parquet import ParquetSource
from parti_data.sources.synthetic import SyntheticSource
from parti_data.sources.table import TableSource
from parti_data.sources.webdataset import WebDatasetSource


def _kind(value: Any) -> str | None:
    return named_kind(value) if isinstance(value, dict) else getattr(value, "kind", "synthetic")


def named_kind(table: dict[str, Any]) -> str | None:
    """Return the kind that a config's table names; without one the embedded default, which has no path."""
    return table.get("kind", None if "path" in table else "synthetic")


Source = Annotated[
    Annotated[SyntheticSource, Tag("synthetic")]
    | Annotated[WebDatasetSource, Tag("webdataset")]
    | Annotated[ParquetSource, Tag("parquet")]
    | Annotated[TableSource, Tag("table")]
    | Annotated[CocoSource, Tag("coco")]
    | Annotated[FolderSource, Tag("folder")],
    Discriminator(_kind),
]
"""A config's `source` table."""

__all__ = [
    "CocoSource",
    "FolderSource",
    "ParquetSource",
    "Source",
    "SyntheticSource",
    "TableSource",
    "WebDatasetSource",
    "named_kind",
]
