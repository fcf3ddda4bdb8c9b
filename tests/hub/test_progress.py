"""What a person sees of a long upload, in a terminal and piped."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

from server import Hub

from leptonsdk.pipeline.run import Run


def environment(hub: Hub, home: Path) -> dict[str, str]:
    own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_owner", "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    kept = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_PROGRESS_BARS"}
    return {**kept, **own, "HF_HUB_DISABLE_XET": "1"}


def words(run: Run, repo_id: str) -> list[str]:
    return [sys.executable, "-m", "leptonsdk.cli", "push", str(run.folder), repo_id, "--artifact", "onnxruntime-int8"]


def test_a_terminal_shows_how_far_an_upload_is(hub: Hub, run: Run, tmp_path: Path) -> None:
    terminal, inside = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))  # in one without a width no bar is drawn
    process = subprocess.Popen(
        words(run, "me/seen"), env=environment(hub, tmp_path), stdin=inside, stdout=inside, stderr=inside
    )
    os.close(inside)
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # what Linux answers when the other side is closed
            break
    os.close(terminal)
    assert process.wait() == 0, shown.decode()
    assert b"model.safetensors" in shown, "the file on its way"
    assert b"100%" in shown
    assert b"hf_owner" not in shown


def test_piped_output_is_plain_lines(hub: Hub, run: Run, tmp_path: Path) -> None:
    done = subprocess.run(
        words(run, "me/piped"), env=environment(hub, tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "%" not in done.stdout
    assert "/me/piped/commit/" in done.stdout
