"""Stages run in processes that are killed."""

import runpy
from pathlib import Path

import pytest

CHILD = str(Path(__file__).with_name("stage_killed_midway.py"))
JOBS = {
    "filter": ("pipelines.filter", "filter_pairs", "FilterConfig"),
    "shard": ("pipelines.shard", "shard_pairs", "ShardConfig"),
    "tokenize": ("pipelines.tokenize", "tokenize_pairs", "TokenizeConfig"),
    "export": ("pipelines.export", "export_tokens", "ExportConfig"),
    "import_tokens": ("pipelines.import_tokens", "import_tokens", "ImportTokensConfig"),
}


@pytest.fixture(scope="module")
def run_child(processes):
    """Run a stage in a process that dies at a moment (-1: never); return its exit code."""

    def run(stage: str, config, die_at: int, report: Path, others: tuple = ()) -> int:
        module, job, config_class = JOBS[stage]
        given = {"MODULE": module, "JOB": job, "CONFIG": config_class, "VALUES": config.model_dump_json()}
        child = processes.Process(
            target=runpy.run_path,
            args=(CHILD, given | {"DIE_AT": die_at, "REPORT": str(report), "OTHERS": others}, "__main__"),
        )
        child.start()
        child.join(60)
        return child.exitcode

    return run
