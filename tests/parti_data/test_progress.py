import io
import sys
import time

from parti_data.progress import show_progress, watch_files


def test_a_log_gets_a_plain_line_now_and_then(monkeypatch, capsys):
    now = iter([0.0, 5.0, 20.0, 21.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    with show_progress("filter", 40) as bar:
        for done in (10, 20, 30):
            bar.update(done, "files")
    assert capsys.readouterr().err == "filter: 20/40, about 20 s left  files\n"


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with show_progress("tokenize", 4) as bar:
        bar.update(4, "files")
    assert "tokenize" in terminal.getvalue()
    assert "4/4" in terminal.getvalue()


def test_watching_files_counts_finished_ones_only(tmp_path, monkeypatch):
    from parti_data import progress

    for name in ("split-0", "split-1", "split-2.tmp-0", "other"):
        (tmp_path / name).write_bytes(b"")
    seen = []

    class Event:
        """One look, then the end."""

        def __init__(self):
            self.looked = False

        def wait(self, _: float) -> bool:
            self.looked, before = True, self.looked
            return before

        def set(self) -> None:
            pass

    monkeypatch.setattr(progress.threading, "Thread", _RunsAtOnce)
    monkeypatch.setattr(progress.threading, "Event", Event)
    monkeypatch.setattr(progress.ProgressBar, "update", lambda _, done, note: seen.append((done, note)))
    with watch_files("filter", str(tmp_path), ("split-",), 3):
        pass
    assert seen == [(2, "files")]


class _RunsAtOnce:
    def __init__(self, target, args, daemon):
        assert daemon
        self._run = lambda: target(*args)

    def start(self) -> None:
        self._run()

    def join(self) -> None:
        pass
