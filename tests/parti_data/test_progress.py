import io
import sys
import time

from parti_data.progress import show_progress


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
