"""Contestants in processes of their own, whose memory is their own, and who wait while others work.

    python workers.py MODULE FUNCTION OPTIONS

A line of JSON on stdin calls a method of what MODULE.FUNCTION(**OPTIONS) gives, a line on stdout
answers it, with a result or with an error, after which it goes on.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import traceback
from importlib import import_module


class CallError(Exception):
    """A process could not do what it was asked for: why, and its last lines."""


class Worker:
    """Such a process. It answers one call before the next is sent."""

    def __init__(self, module: str, function: str, environment: dict, /, **options):
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed with the worker
        self.process = subprocess.Popen(
            [sys.executable, __file__, module, function, json.dumps(options)],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.alive = True

    def send(self, method: str, **options) -> None:
        with contextlib.suppress(OSError, ValueError):  # it is gone: receive() will say so
            print(json.dumps([method, options]), file=self.process.stdin, flush=True)

    def receive(self, timeout: float | None = None):
        """CallError where it fails, ends, or takes longer, and is then given up."""
        if not self.alive:
            raise CallError("The process was given up before.")
        answers, *_ = select.select([self.process.stdout], [], [], timeout)
        line = self.process.stdout.readline() if answers else ""
        if not line:
            why = f"No answer in {timeout} s"
            if answers:  # it is about to end by itself: how?
                with contextlib.suppress(subprocess.TimeoutExpired):
                    why = f"The process ended with code {self.process.wait(5)}"
            raise CallError(f"{why}\n{self.close()}")
        answer = json.loads(line, parse_constant=str)  # strict JSON has no NaN
        if "error" in answer:
            raise CallError(answer["error"])
        return answer["result"]

    def call(self, method: str, timeout: float | None = None, /, **options):
        self.send(method, **options)
        return self.receive(timeout)

    def close(self) -> str:
        """The last lines that it wrote where errors go."""
        if not self.alive:
            return ""
        self.alive = False
        self.process.kill()
        with contextlib.suppress(OSError):  # a call that it never read
            self.process.communicate()
        with self.log:
            self.log.seek(0)
            return "\n".join(self.log.read().strip().splitlines()[-12:])


def in_words(error: Exception) -> str:
    """The error, and the end of its traceback."""
    last = traceback.format_exc().strip().splitlines()[-12:]
    return "\n".join([f"{type(error).__name__}: {error}"[:2000], *last])


def main() -> None:
    """The other end, in the process."""
    module, function, options = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes where errors go
    served = getattr(import_module(module), function)(**json.loads(options))
    for line in sys.stdin:
        method, options = json.loads(line)
        try:
            answer = {"result": getattr(served, method)(**options)}
        except Exception as error:
            answer = {"error": in_words(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
