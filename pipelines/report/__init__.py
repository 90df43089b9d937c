"""One self-contained HTML page on all finished stages of a directory."""

from pipelines.report.page import write_report

__all__ = ["write_report"]
