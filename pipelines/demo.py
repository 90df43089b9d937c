"""The demo: every stage on synthetic scenes, as the commands that a user would type, ending with one page.

Each command is a process of its own. A demo that was stopped goes on where it was.
"""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from parti_data.config import Place, StageConfig
from parti_data.errors import PartiError
from parti_data.manifest import MANIFEST, read_manifest
from parti_data.metrics import read_metrics
from parti_data.scenes import make_scene
from parti_data.storage import is_file, join, publish_bytes, read_bytes

SUMMARY = "summary.json"
TIMES = "times.json"
PROMPTS = "prompts.tsv"
CATEGORIES = {
    "one object": ("new_prompts", 1),
    "two objects": ("new_prompts", 2),
    "new combination": ("new_combinations", 1),
    "new combination, two objects": ("new_combinations", 2),
}
"""The split and the number of objects of each kind of prompt."""
_READ_MEMORY_EVERY_S = 0.25
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


class DemoConfig(StageConfig):
    """What `parti demo` is told."""

    output: Place = "runs/demo"
    prompts_per_category: int = 48


class PeakMemory(threading.Thread):
    """Samples the resident memory of this process and its children, pages that they share counted once for each."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self._stopped = threading.Event()

    def run(self) -> None:
        """Sample until stopped."""
        me = psutil.Process()
        while not self._stopped.wait(_READ_MEMORY_EVERY_S):
            self.peak_bytes = max(self.peak_bytes, sum(map(_resident, [me, *me.children(recursive=True)])))

    def stop(self) -> int:
        """Stop and return the peak in bytes."""
        self._stopped.set()
        self.join()
        return self.peak_bytes


class Stops:
    """Ctrl-C and SIGTERM: handed on to the command at work, which follows them and says so, and remembered."""

    def __init__(self):
        self.number = 0
        self._child: subprocess.Popen | None = None

    @contextmanager
    def handed_on(self) -> Iterator[None]:
        """While the block runs, a signal ends the command at work and not this process."""
        before = {number: signal.signal(number, self._hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hand_on(self, number: int, _: FrameType | None) -> None:
        self.number = number
        if self._child:
            self._child.send_signal(number)

    def run(self, command: list[str]) -> int:
        """Run a command to its end and return its exit code; exits where it, or this process, was asked to stop."""
        code = 0 if self.number else self._wait_for(command)
        if self.number or code in _STOPPED:
            sys.exit(128 + self.number if self.number else code)
        return code

    def _wait_for(self, command: list[str]) -> int:
        with subprocess.Popen(command) as self._child:
            if self.number:  # it came before there was a child
                self._child.send_signal(self.number)
            return self._child.wait()


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def demo_commands(config: DemoConfig) -> dict[str, list[str]]:
    """Return the arguments of `parti` for each step, by the directory that it fills."""
    configs = configs_directory() / "demo"
    place = {name: join(config.output, name) for name in ("pairs", "held_out", "text", "tokenizer", "tokens")}
    place |= {name: join(config.output, name) for name in ("prior", "samples", "evaluation")}
    image_tokenizer = f"image_tokenizer={place['tokenizer']}/tokenizer.safetensors"
    text_tokenizer = f"text_tokenizer={place['text']}/text.model"
    source = f"source={place['pairs']}"
    held_out = f"held_out={place['held_out']}"
    prior = f"prior={place['prior']}/prior.safetensors"
    prompts = f"prompts_file={join(config.output, PROMPTS)}"
    steps = {
        "pairs": ["filter", "filter.toml"],
        "held_out": ["filter", "held_out.toml"],
        "text": ["train", "text", "text.toml", source],
        "tokenizer": ["train", "tokenizer", "tokenizer.toml", source, held_out],
        "tokens": ["tokenize", "tokenize.toml", source, image_tokenizer, text_tokenizer],
        "prior": ["train", "prior", "prior.toml", f"source={place['tokens']}"],
        "samples": ["sample", "sample.toml", prior, image_tokenizer, text_tokenizer, prompts],
        "evaluation": ["evaluate", "evaluate.toml", f"samples={place['samples']}"],
    }  # fmt: skip
    return {
        name: [str(configs / word) if word.endswith(".toml") else word for word in words] + [f"output={place[name]}"]
        for name, words in steps.items()
    }


def configs_directory() -> Path:
    """Return where the configs lie: inside the installed package, or beside it in a checkout."""
    here = Path(__file__).parent
    return here / "configs" if (here / "configs").is_dir() else here.parent / "configs"


def scene_prompts(prompts_per_category: int) -> str:
    """Return prompts that training never sees, as a table with the columns Prompt and Category."""
    lines = ["Prompt\tCategory"]
    for category, (split, num_objects) in CATEGORIES.items():
        captions: dict[str, None] = {}
        for index in range(100 * prompts_per_category):
            captions[make_scene(1, index, split, num_objects).caption()] = None  # type: ignore[arg-type]
            if len(captions) == prompts_per_category:
                break
        lines += [f"{caption}\t{category}" for caption in captions]
    return "\n".join(lines) + "\n"


def run_demo(config: DemoConfig) -> None:
    """Run every command, then write the page and the summary, and print it.

    A finished step returns at once, and refuses a config that has changed since; times and the peak of a demo that was
    stopped are added to those of its earlier runs.
    """
    stops = Stops()
    with stops.handed_on():
        _run_commands(config, stops)


def _run_commands(config: DemoConfig, stops: Stops) -> None:
    before = _read_times(config.output)
    seconds: dict[str, float] = before["seconds"]
    memory = PeakMemory()
    memory.start()
    publish_bytes(join(config.output, PROMPTS), scene_prompts(config.prompts_per_category).encode())
    commands = demo_commands(config) | {"verify": ["verify", join(config.output, "tokens")]}
    for name, arguments in commands.items():
        is_new = not is_file(join(join(config.output, name), MANIFEST)) and not (name == "verify" and name in seconds)
        taken = _run(arguments, stops)
        seconds[name] = round(seconds.get(name, 0) + taken, 1) if is_new else seconds.get(name, 0)
        before["peak"] = max(before["peak"], memory.peak_bytes)
        publish_bytes(join(config.output, TIMES), json.dumps(before).encode())
    peak_bytes = max(memory.stop(), before["peak"])
    summary = summarise(config.output, seconds, peak_bytes)
    publish_bytes(join(config.output, SUMMARY), (json.dumps(summary, indent=1) + "\n").encode())
    _run(["report", config.output], stops)
    print(json.dumps(summary, indent=1))


def _read_times(output: str) -> dict[str, Any]:
    """Return the seconds of each step and the peak memory in bytes of earlier runs."""
    path = join(output, TIMES)
    return json.loads(read_bytes(path)) if is_file(path) else {"seconds": {}, "peak": 0}


def summarise(output: str, seconds: dict[str, float], peak_bytes: int) -> dict[str, object]:
    """Return the demo's figures from the manifests of its steps."""
    tokenizer = read_manifest(join(output, "tokenizer")).details
    accuracy = read_manifest(join(output, "evaluation")).details["accuracy"]
    return {
        "seconds": round(sum(seconds.values()), 1),
        "peak_memory_bytes": peak_bytes,
        "one_object_accuracy": accuracy["one object"],
        "two_object_accuracy": accuracy["two objects"],
        "new_combination_accuracy": accuracy["new combination"],
        "new_combination_two_object_accuracy": accuracy["new combination, two objects"],
        "psnr_db": tokenizer["psnr_db"],
        "code_usage": tokenizer["code_usage"],
        "page": join(output, "report.html"),
        "seconds_by_step": seconds,
        "rows_per_s": rows_per_s(output),
    }


def rows_per_s(output: str) -> dict[str, float]:
    """Return the rows a second of each pipeline that filled one of the demo's directories."""
    return {
        f"{name} {run.pipeline}": run.rows_per_s
        for name in ("pairs", "held_out", "tokens")
        for run in read_metrics(join(output, name)).pipelines()
    }


def _run(arguments: list[str], stops: Stops) -> float:
    """Run `parti` with arguments and return the seconds it took; raises PartiError where it fails."""
    print(f"$ parti {' '.join(arguments)}", flush=True)
    started = time.monotonic()
    if code := stops.run([sys.executable, "-m", "pipelines.command_line", *arguments]):
        raise PartiError(f"parti {arguments[0]}: expected to finish, found exit code {code}; see above")
    return time.monotonic() - started
