"""The prompt loop: through pipes, at a terminal, interrupted, and with mistakes."""

import io
import math
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from unittest.mock import Mock

import pytest

from llmlite.cli import chat, main
from llmlite.cli.terminal import careful, harmless
from llmlite.files import tqdm
from llmlite.generate import complete
from llmlite.tokenizer import BPETokenizer

SAMPLING = {"temperature": 0.8, "top_k": 50, "top_p": None}


def test_each_line_is_continued_with_the_next_seed(tiny_config, make_model, monkeypatch, capsys):
    tokenizer = BPETokenizer.train("the cat sat on the mat , the cat sat there", 270)
    model = make_model(replace(tiny_config, vocab_size=tokenizer.vocab_size, block_size=24))

    def talk(given: bytes, seed: int):
        stdin = io.TextIOWrapper(io.BytesIO(given), "utf-8", "surrogateescape")
        monkeypatch.setattr(sys, "stdin", stdin)
        chat.chat(model, tokenizer, "a tiny model", 12, seed, False, **SAMPLING)
        return capsys.readouterr()

    out, err = talk(b"The cat\n\n  The mat \n", seed=2**64 - 1)  # the largest, after which comes 0
    (first,) = complete(model, tokenizer, "The cat", 12, seed=2**64 - 1, **SAMPLING)
    (second,) = complete(model, tokenizer, "The mat", 12, seed=0, **SAMPLING)
    assert out == f"The cat{first}\nThe mat{second}\n"
    assert "no assistant and answers nothing (a tiny model)" in err
    out, err = talk(b"The \xff cat\nThe mat\n", 0)
    assert out == f"The mat{second}\n"
    assert err.endswith("(a tiny model).\nThis line is not UTF-8; it is left out.\n")
    assert "seed is -18446744073709551616" in talk(b"The cat\n", -(2**64)).err
    monkeypatch.setattr(chat, "stream", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # in a pipe it ends all
        talk(b"The cat\nThe mat\n", 5)
    assert chat.stream.call_count == 1


def test_at_a_terminal_an_interrupt_ends_a_text_and_the_inputs_end_all(monkeypatch, capsys):
    tokenizer = BPETokenizer([])

    def interrupted(*_, **__):
        yield tokenizer.token_bytes.index(b"!"), math.log(2)
        raise KeyboardInterrupt

    monkeypatch.setattr(chat, "stream", interrupted)
    monkeypatch.setattr(sys, "stdin", io.StringIO("The cat\nThe mat\n"))
    for file in (sys.stdin, sys.stdout):
        monkeypatch.setattr(file, "isatty", lambda: True)
    chat.chat(None, tokenizer, "a tiny model", 1000, 0, True)
    out, err = capsys.readouterr()
    assert out == "> The cat!(0.5)\n> The mat!(0.5)\n> "
    assert err.splitlines()[1] == "Ctrl-C stops a continuation, Ctrl-D ends."
    assert err.count("Mean surprise of 1 tokens") == 2
    assert err.endswith(".\n\n\n"), "the lines of both, Ctrl-C and Ctrl-D, are ended"


def test_probabilities_stand_behind_their_tokens_and_their_mean_on_stderr(monkeypatch, capsys):
    halves = {" the": 1, "é": 2, ".\n": 1, "!": 0}  # tokens, each with a probability of a half
    text = [(piece, [math.log(2)] * n) for piece, n in halves.items()]
    chat.print_text("On", text, probabilities=True)
    out, err = capsys.readouterr()
    assert out == "On the(0.5)é(0.25).(0.5)\n!\n"
    assert err == "Mean surprise of 4 tokens: 0.69 nats per token, perplexity 2.0.\n"
    chat.print_text("On", text)
    assert capsys.readouterr() == ("On theé.\n!\n", "")


SHOWN = [  # what is printed, and what a terminal gets of it on stdout, on stderr, in an error
    ("tab\t, é 日本 🙂", *["tab\t, é 日本 🙂"] * 3),
    ("a\x1b[2J\x9b2J\x7f\0", *["a␛[2J\ufffd2J␡␀"] * 3),
    ("txt\u202egpj\u2066.exe", *["txt\ufffdgpj\ufffd.exe"] * 3),
    ("a\nb\u2028c", *["a\nb\u2028c"] * 2, "a␊b\ufffdc"),
    ("\r\x1b[A bar \x1b[1m", "␍␛[A bar ␛[1m", "\r\x1b[A bar ␛[1m", "␍␛[A bar ␛[1m"),
]


@pytest.mark.parametrize(("text", "out", "err", "error"), SHOWN)
def test_a_terminal_is_shown_control_characters(monkeypatch, capsys, text, out, err, error):
    for terminal in (False, True):  # a file and a pipe get them
        for stream in (sys.stdout, sys.stderr):
            monkeypatch.setattr(stream, "isatty", lambda terminal=terminal: terminal)
        with careful():
            print(text)
            print(text, file=sys.stderr)
    assert capsys.readouterr() == (f"{text}\n{out}\n", f"{text}\n{err}\n")
    assert harmless(text) == error


def test_bars_at_a_terminal_are_as_without_care(monkeypatch):
    said = []
    for care in (careful(), nullcontext()):
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        given = {"position": 1, "bar_format": "{n}", "mininterval": 0, "miniters": 1}
        with care, tqdm(**given) as bar:  # of two, tqdm clears one or the other first
            bar.update()
            tqdm.write("A line", sys.stderr)
            said.append(sys.stderr.getvalue())
    assert said[0] == said[1]
    assert "\x1b[A" in said[0]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_characters_that_stdout_lacks_are_replaced(monkeypatch, encoding):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    for words in (["generate", "Die πολις", "--tokens", "1"], ["--help"]):
        assert main(words) == 0
    sys.stdout.flush()
    assert sys.stdout.buffer.getvalue().startswith(b"\nDie ?????")


def test_generate_and_chat_take_the_same_options(llmlite, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("The cat\n"))
    options = ["--tokens", "4", "--top-k", "7", "--top-p", "0.5", "--seed", "8"]
    said = llmlite("chat", *options)
    assert llmlite("generate", "The cat", *options) == "\n" + said
    assert llmlite("generate", "The cat", *options, "-n", "2").count("\nThe cat") == 2
    assert "temperature is -1.0" in llmlite("chat", "--temperature", "-1", code=2)
    assert "leave out -n" in llmlite("generate", "-n", "2", "--probabilities", code=2)


def test_a_text_does_not_wait_for_libraries_that_it_does_not_need():
    """In place of a time, which would depend on the machine: what has been imported by the end."""
    heavy = {"pandas", "datasets", "matplotlib", "scipy", "nltk", "transformers", "torch._dynamo"}
    call = "from llmlite.cli import main; main(['generate', 'The cat', '--tokens', '2'])"
    code = f"import sys; {call}; print({heavy} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.startswith("\nThe cat"), run.stderr
    assert run.stdout.splitlines()[-1] == "set()"
