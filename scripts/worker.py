"""Helper processes that answer JSON lines, each in an interpreter of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent


class Worker:
    """A running helper script.

    Parameters
    ----------
    title : str
        Name for messages.
    python : str
        Interpreter that runs the script.
    script : str
        File name beside this module.
    options : dict
        The script's only argument, as JSON.
    folder : Path
        Working directory of the process.

    Attributes
    ----------
    started : dict
        The line that the script has printed when it was ready.

    Raises
    ------
    SystemExit
        The process has ended; the message has the last line of its standard error.
    """

    def __init__(
        self, title: str, python: str, script: str, options: dict[str, Any], folder: Path
    ) -> None:
        self.title = title
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        try:
            self._process = subprocess.Popen(
                [python, str(SCRIPTS / script), json.dumps(options)],
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
            )
        except OSError as error:
            raise SystemExit(f"cannot start the worker of {title}: {error}") from None
        self.started = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            tail = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
            raise SystemExit(f"the worker of {self.title} has died: {' '.join(tail)}")
        return json.loads(line)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return the answer."""
        assert self._process.stdin is not None
        # A process that has ended is found out when its answer is read, with the reason.
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._errors.close()
