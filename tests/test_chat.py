"""The prompt loop: through pipes, at a terminal, interrupted, and with mistakes."""

import io
import math
import os
import pty
import select
import signal
import subprocess
import sys
from dataclasses import replace
from unittest.mock import Mock

import pytest

from llmlite.cli import chat, main
from llmlite.generate import complete
from llmlite.tokenizer import BPETokenizer

SAMPLING = {"temperature": 0.8, "top_k": 50, "top_p": None}


def test_each_line_is_continued_as_complete_does_with_the_next_seed_until_an_interrupt(
    tiny_config, make_model, monkeypatch, capsys
):
    tokenizer = BPETokenizer.train("the cat sat on the mat , the cat sat there", 270)
    model = make_model(replace(tiny_config, vocab_size=tokenizer.vocab_size, block_size=24))

    def talk(given: bytes, seed: int):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
        chat.chat(model, tokenizer, "a tiny model", 12, seed, False, **SAMPLING)
        return capsys.readouterr()

    out, err = talk(b"The cat\n\n  The mat \n", seed=2**64 - 1)  # the largest, after which comes 0
    (first,) = complete(model, tokenizer, "The cat", 12, seed=2**64 - 1, **SAMPLING)
    (second,) = complete(model, tokenizer, "The mat", 12, seed=0, **SAMPLING)
    assert out == f"The cat{first}\nThe mat{second}\n"
    assert "no assistant and answers nothing (a tiny model)" in err
    assert talk(b"The \xff cat\n", 5).err.endswith(" not UTF-8; what came with it is left out.\n")
    assert "seed is -18446744073709551616" in talk(b"The cat\n", -(2**64)).err
    monkeypatch.setattr(chat, "stream", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # in a pipe it ends all
        talk(b"The cat\nThe mat\n", 5)
    assert chat.stream.call_count == 1


ENDLESS = """
import time
from llmlite.cli import chat
from llmlite.tokenizer import BPETokenizer

def stream(*_, **__):
    while True:
        time.sleep(0.01)
        yield 65, 0.5

chat.stream = stream
chat.chat(None, BPETokenizer([]), "a tiny model", 1000, 0, True)
print("ended")
"""


def test_ctrl_c_and_ctrl_d_at_a_real_terminal():
    """A process in a terminal of its own, where Ctrl-C is a signal and Ctrl-D the input's end."""
    child, terminal = pty.fork()
    if child == 0:
        # A shell's background jobs ignore it, and so would what they start.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execv(sys.executable, [sys.executable, "-c", ENDLESS])
    seen = b""

    def wait_for(words: bytes) -> bytes:
        nonlocal seen
        while words not in seen:
            assert select.select([terminal], [], [], 120)[0], seen
            seen += os.read(terminal, 4096)
        before, seen = seen.split(words, 1)
        return before

    try:
        assert b"no assistant" in wait_for(b"> ").splitlines()[0]
        for _ in range(2):  # the loop goes on
            os.write(terminal, b"The cat\n")
            wait_for(b"(0.61)")
            wait_for(b"(0.61)")  # a second one: the first is counted by now, not only shown
            os.write(terminal, b"\x03")
            assert b"Mean surprise" in wait_for(b"> ")
        os.write(terminal, b"\x04")
        wait_for(b"ended")
        assert os.waitpid(child, 0)[1] == 0
    finally:
        os.close(terminal)  # hangs up, which ends the process if it is there yet


def piece(text, *probabilities):
    return text, [-math.log(p) for p in probabilities]


def test_probabilities_stand_behind_their_tokens_and_their_mean_on_stderr(capsys):
    text = [piece(" the", 0.5), piece("é", 0.5, 0.2), piece(".\n", 0.25), piece("!")]
    chat.print_text("On", text, probabilities=True)  # (2 · 2 · 5 · 4)^(1/4)
    out, err = capsys.readouterr()
    assert out == "On the(0.5)é(0.1).(0.25)\n!\n"
    assert err == "Mean surprise of 4 tokens: 1.10 nats per token, perplexity 3.0.\n"
    chat.print_text("On", text)
    assert capsys.readouterr() == ("On theé.\n!\n", "")


def test_a_terminal_is_shown_control_characters_and_does_not_obey_them(monkeypatch, capsys):
    given = "\x1b[2J\r\t\n", [piece("\x9b\x7fa", 0.5)]
    chat.print_text(*given)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    chat.print_text(*given)
    assert capsys.readouterr().out == "\x1b[2J\r\t\n\x9b\x7fa\n␛[2J␍\t\n\ufffd␡a\n"


def test_generate_and_chat_take_the_same_options(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("The cat\n"))
    options = ["--tokens", "4", "--top-k", "7", "--top-p", "0.5", "--seed", "8"]
    assert main(["chat", *options]) == 0
    out, err = capsys.readouterr()
    assert "the model that comes with llmlite" in err.splitlines()[0]
    assert main(["generate", "The cat", *options]) == 0
    assert capsys.readouterr().out == "\n" + out
    assert main(["generate", "The cat", *options, "-n", "2"]) == 0
    assert capsys.readouterr().out.count("\nThe cat") == 2
    assert main(["chat", "--temperature", "-1"]) == 2
    assert "temperature is -1.0" in capsys.readouterr().err
    assert main(["generate", "-n", "2", "--probabilities"]) == 2
    assert "leave out -n" in capsys.readouterr().err


def test_a_text_does_not_wait_for_libraries_that_it_does_not_need():
    """In place of a time, which would depend on the machine: what has been imported by the end."""
    heavy = "pandas", "datasets", "matplotlib", "scipy", "nltk", "transformers", "torch._dynamo"
    code = (
        "import sys; from llmlite.cli import main; main(['generate', 'The cat', '--tokens', '2']); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.startswith("\nThe cat"), run.stderr
    assert run.stdout.splitlines()[-1] == "[]"
