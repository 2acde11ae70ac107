"""Contestants in processes of their own, who wait while others work.
A process serves the methods of an object that it makes, and after an error it goes on."""

import contextlib
import json
import multiprocessing
import os
import traceback
from collections.abc import Callable
from unittest.mock import patch


class CallError(Exception):
    """A process could not do what it was asked for: why."""


class Worker:
    """Such a process. Several calls may be sent before the first answer is received."""

    def __init__(self, served: Callable, environment: dict, /, **options):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, served, options), daemon=True)
        with patch.dict(os.environ, environment):
            self.process.start()
        theirs.close()

    def send(self, method: str, **options) -> None:
        with contextlib.suppress(OSError):  # it is gone: receive() will say so
            self.pipe.send((method, options))

    def receive(self, timeout: float | None = None):
        """CallError where it fails, ends, or takes longer, and is then given up."""
        try:
            if not self.pipe.poll(timeout):
                self.process.kill()
                self.close()
                raise CallError(f"No answer in {timeout} s")
            answer = json.loads(self.pipe.recv(), parse_constant=str)  # strict JSON has no NaN
        except (EOFError, OSError):
            self.process.join(5)  # one that is about to end by itself says how
            raise CallError(f"The process ended with code {self.process.exitcode}") from None
        if "error" in answer:
            raise CallError(answer["error"])
        return answer["result"]

    def call(self, method: str, timeout: float | None = None, /, **options):
        self.send(method, **options)
        return self.receive(timeout)

    def close(self) -> None:
        self.pipe.close()
        self.process.join(0.5)  # one that hears it tidies up; torch takes seconds to end
        self.process.kill()
        self.process.join(5)


def serve(pipe, served: Callable, options: dict) -> None:
    """The other end, in the process."""
    os.dup2(2, 1)  # whatever libraries print goes where errors go
    served = served(**options)
    with contextlib.suppress(EOFError):  # the other end is closed
        while True:
            method, given = pipe.recv()
            try:
                answer = {"result": getattr(served, method)(**given)}
            except Exception as error:
                last = traceback.format_exc().strip().splitlines()[-12:]
                answer = {"error": "\n".join([f"{type(error).__name__}: {error}"[:2000], *last])}
            pipe.send(json.dumps(answer))
