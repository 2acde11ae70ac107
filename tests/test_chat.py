"""The prompt loop: through pipes, at a terminal, interrupted, and with every mistake."""

import io
import math
import os
import pty
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from llmlite import chat
from llmlite.chat import LEVELS, SETTINGS, Chat, Printer, Settings, has_colours, paint, percent
from llmlite.cli import main
from llmlite.errors import LLMLiteError
from llmlite.generate import Piece, Step, complete, generate, prompt_ids
from llmlite.tokenizer import BPETokenizer

SETTING = Settings(tokens=12, temperature=0.8, top_k=50, top_p=None, seed=5)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train("the cat sat on the mat , the cat sat there", 270)


@pytest.fixture
def model(tiny_config, make_model, tokenizer):
    return make_model(replace(tiny_config, vocab_size=tokenizer.vocab_size, block_size=24))


@pytest.fixture
def talk(model, tokenizer, monkeypatch, capsys):
    """talk(lines, …): what a chat with this input writes to stdout and stderr."""

    def run(*lines, settings=SETTING, interactive=False):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        run.chat = Chat(model, tokenizer, "a tiny model", settings)
        run.chat.interactive = interactive
        run.chat.run()
        return capsys.readouterr()

    return run


def stream_of(tokenizer, words, then=None):
    """In place of `stream`: the tokens of `words`, each with probability a half; then an error."""

    def steps(*_):
        for token in tokenizer.encode(words):
            yield Step(token, math.log(2), math.log(4))
        if then is not None:
            raise then

    return steps


# -- the loop through pipes -----------------------------------------------------------------------


def test_each_line_is_continued_as_complete_does_and_nothing_else_is_on_stdout(
    talk, model, tokenizer
):
    out, err = talk("The cat", "", "  The mat ")
    options = {"temperature": 0.8, "top_k": 50}
    (first,) = complete(model, tokenizer, "The cat", 12, seed=5, **options)
    (second,) = complete(model, tokenizer, "The mat", 12, seed=6, **options)
    assert out == f"The cat{first}\nThe mat{second}\n"
    assert first != second
    (line,) = err.splitlines()
    assert "no assistant" in line
    assert "a tiny model" in line


def test_more_continues_the_text_with_the_next_seed(talk, model, tokenizer):
    out, _ = talk("The cat", "/more", "/more")
    ids = prompt_ids(tokenizer, "The cat")
    parts = []
    for seed in (5, 6, 7):  # 12 tokens each: the window of 24 moves
        length = ids.size(1)
        ids = generate(model, ids, 12, 0.8, 50, seed=seed)
        parts.append(tokenizer.decode(ids[0, length:]))
    assert tokenizer.eot_id not in ids
    assert out == "The cat{}\n…{}\n…{}\n".format(*parts)


@pytest.mark.parametrize(
    ("line", "said", "value"),
    [
        ("/temperature 0.25", "temperature: 0.25", 0.25),
        ("/temperature 0", "temperature: 0.0", 0),
        ("/top-k 7", "top-k: 7", 7),
        ("/top-k off", "top-k: off", None),
        ("/top-p 0.5", "top-p: 0.5", 0.5),
        ("/top-p  off ", "top-p: off", None),
        ("/tokens 3", "tokens: 3", 3),
        ("/tokens 0", "tokens: 0", 0),
        ("/seed 9", "seed: 9", 9),
        ("/probabilities on", "probabilities: on", True),
        ("/probabilities off", "probabilities: off", False),
    ],
)
def test_a_command_sets_what_the_next_text_is_made_with(talk, monkeypatch, line, said, value):
    field = said.split(":")[0].replace("-", "_")
    start = replace(SETTING, top_p=0.9, probabilities=value is False)
    asked, plain = [], chat.stream
    monkeypatch.setattr(chat, "stream", lambda *given: asked.append(given[2:]) or plain(*given))
    _, err = talk(line, "The cat", settings=start)
    assert err.splitlines()[1] == said
    expected = replace(start, **{field: value})
    assert expected != start
    assert asked == [expected.sampling]
    assert talk.chat.settings == replace(expected, seed=expected.seed + 1)


def test_a_seed_gives_the_text_again(talk):
    once, _ = talk("The cat")
    thrice, _ = talk("The cat", "The cat", "/seed 5", "The cat")
    assert thrice.startswith(once)
    assert thrice.endswith(once)
    assert thrice.count(once) == 2


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("/temperature x", "/temperature takes a value, as in `/temperature 0.7`, not 'x'."),
        ("/top-k", "/top-k takes a value, as in `/top-k 20`, and was given none."),
        ("/tokens 1.5", "/tokens takes a value, as in `/tokens 100`, not '1.5'."),
        ("/seed 1 2", "/seed takes a value, as in `/seed 3`, not '1 2'."),
        (
            "/probabilities maybe",
            "/probabilities takes a value, as in `/probabilities on`, not 'maybe'.",
        ),
        ("/temperature -1", "Cannot generate: temperature is -1.0; it must be 0 or at least 0.01."),
        ("/temperature nan", "Cannot generate: temperature is nan; it must be 0 or at least 0.01."),
        ("/top-k 0", "Cannot generate: top_k is 0; it must be 1 or more."),
        ("/top-p 2", "Cannot generate: top_p is 2.0; it must be above 0 and at most 1."),
        ("/tokens -1", "Cannot generate: max_new_tokens is -1; it must be 0 to 1,000,000."),
        (f"/seed {2**64}", f"Cannot generate: seed is {2**64}; it must fit into 64 bits."),
        ("/more", "There is no text yet to continue; type the beginning of one."),
        ("/more 3", "/more takes no value, and was given '3'."),
        ("/quit now", "/quit takes no value, and was given 'now'."),
        ("/fly", "There is no command '/fly'; /help lists them all."),
        ("/", "There is no command '/'; /help lists them all."),
        ("/\x1b[2J", r"There is no command '/\x1b[2J'; /help lists them all."),
        (
            "The \udc80",
            "The text holds a lone surrogate (U+DC80), which is not Unicode text; decode "
            "your input with errors='replace' first.",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_the_loop_goes_on(talk, line, sentence):
    out, err = talk(line, "The cat")
    assert err.splitlines()[1:] == [sentence]
    assert out.startswith("The cat")
    assert talk.chat.settings == replace(SETTING, seed=6)


def test_input_that_is_not_utf8_is_one_sentence(talk, monkeypatch, model, tokenizer, capsys):
    stdin = io.TextIOWrapper(io.BytesIO(b"The \xff cat\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    Chat(model, tokenizer, "a tiny model", SETTING).run()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[1:] == ["The input is not UTF-8; what came with it is left out."]


def test_quit_ends_and_a_space_makes_a_command_text(talk, model, tokenizer):
    out, _ = talk(" /quit", "/quit ", "never read")
    assert out.startswith("/quit")
    assert "never" not in out


def test_help_lists_every_command_with_its_value_and_a_working_example(talk):
    _, err = talk("/help")
    for command, (_, example, _) in SETTINGS.items():
        (line,) = (line for line in err.splitlines() if line.strip().startswith(command))
        assert f"{command} {example}" in line
        _, said = talk(f"{command} {example}")
        assert said.splitlines()[1] == f"{command[1:]}: {example}"
    assert "(now 0.8)" in err
    assert all(command in err for command in ("/more", "/help", "/quit"))


def test_the_end_of_a_text_is_told(talk, tokenizer, monkeypatch):
    monkeypatch.setattr(chat, "stream", stream_of(tokenizer, " sat"))  # less than was asked for
    out, err = talk("The cat")
    assert out == "The cat sat\n"
    assert err.splitlines()[1:] == ["The text ends here."]


def test_the_last_seed_is_followed_by_the_first(talk):
    talk("The cat", settings=replace(SETTING, seed=2**64 - 1))
    assert talk.chat.settings.seed == 0


def test_settings_that_nothing_can_be_sampled_with_are_refused(one_sentence):
    with pytest.raises(LLMLiteError, match="temperature") as error:
        replace(SETTING, temperature=-1.0)
    one_sentence(error)


# -- interrupted ----------------------------------------------------------------------------------


def test_at_a_prompt_an_interrupt_ends_the_text_and_more_goes_on_from_there(
    talk, tokenizer, monkeypatch
):
    stopped = stream_of(tokenizer, " sat on", KeyboardInterrupt)
    monkeypatch.setattr(chat, "stream", stopped)
    out, _ = talk("The cat", "/quit", interactive=True)
    assert out == "> The cat sat on\n> "
    text = tokenizer.encode(" \n The cat sat on")
    assert talk.chat.ids[0].tolist() == text[-24:]


def test_an_interrupt_at_the_prompt_gives_another_prompt(talk, monkeypatch, capsys):
    typed = iter([KeyboardInterrupt, "/help", EOFError])

    def read(sign):
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)
    _, err = talk(interactive=True)
    assert "/temperature" in err
    assert next(typed, None) is None


def test_in_a_pipe_an_interrupt_ends_all(talk, tokenizer, monkeypatch, capsys):
    monkeypatch.setattr(chat, "stream", stream_of(tokenizer, " sat", KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        talk("The cat", "The mat")
    assert capsys.readouterr().out == "The cat sat\n"


ENDLESS = """
import time
from llmlite import chat
from llmlite.config import ModelConfig
from llmlite.generate import Step
from llmlite.model import GPT
from llmlite.tokenizer import BPETokenizer

def stream(*_):
    while True:
        time.sleep(0.01)
        yield Step(65, 0.5, 0.5)

chat.stream = stream
model = GPT(ModelConfig(257, block_size=8, n_layer=1, n_head=1, n_embd=4))
settings = chat.Settings(1000, 1.0, None, None, 0, True)
chat.Chat(model, BPETokenizer([]), "a tiny model", settings).run()
print("ended")
"""


def test_ctrl_c_and_ctrl_d_at_a_real_terminal():
    """A process in a terminal of its own, where Ctrl-C is a signal and Ctrl-D the input's end."""
    child, terminal = pty.fork()
    if child == 0:
        # A shell's background jobs ignore it, and so would what they start.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.environ.update(TERM="xterm-256color", NO_COLOR="")
        os.execv(sys.executable, [sys.executable, "-c", ENDLESS])
    seen = b""

    def wait_for(words: bytes) -> bytes:
        nonlocal seen
        deadline = time.monotonic() + 120
        while words not in seen:
            ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
            assert ready, seen
            seen += os.read(terminal, 4096)
        before, seen = seen.split(words, 1)
        return before

    try:
        first = wait_for(b"> ")
        assert b"no assistant" in first.splitlines()[0]
        os.write(terminal, b"The cat\n")
        wait_for(b"\x1b[1mThe cat\x1b[0m")
        wait_for(b"61%")
        wait_for(b"61%")  # a second one: the first is counted by now, not only shown
        os.write(terminal, b"\x03")
        assert b"Mean surprise" in wait_for(b"> ")
        os.write(terminal, b"/more\n")
        wait_for("…".encode())
        wait_for(b"61%")
        os.write(terminal, b"\x03")
        wait_for(b"> ")
        os.write(terminal, b"\x04")
        wait_for(b"ended")
        assert os.waitpid(child, 0)[1] == 0
    finally:
        os.close(terminal)  # hangs up, which ends the process if it is there yet


# -- how text looks -------------------------------------------------------------------------------


def piece(text, *probabilities):
    return Piece(text, [Step(0, -math.log(p), 0.0) for p in probabilities])


PIECES = [piece(" the", 0.34), piece("é", 0.5, 0.24), piece(".\n", 0.001), piece("\n", 0.9)]


def test_probabilities_stand_behind_their_tokens_where_there_are_no_colours():
    out = io.StringIO()
    Printer(True, out).print("On", PIECES)
    assert out.getvalue() == "On the(0.34)é(0.12).(0.001)\n(0.9)\n\n"
    out = io.StringIO()
    Printer(False, out).print("On", PIECES)
    assert out.getvalue() == "On theé.\n\n\n"


def test_on_a_terminal_the_surprising_stand_on_a_background(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    Printer(True, out).print("On", PIECES)
    assert out.getvalue() == (
        "\x1b[1mOn\x1b[0m"
        "\x1b[38;5;16;48;5;230m the\x1b[0m\x1b[2m34%\x1b[0m"
        "\x1b[38;5;16;48;5;222mé\x1b[0m\x1b[2m12%\x1b[0m"
        "\x1b[38;5;16;48;5;203m.\x1b[0m\x1b[2m0.1%\x1b[0m\n"
        "\x1b[2m90%\x1b[0m\n\x1b[0m\n"
    )


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),  # as no-color.org has it
        ({"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_that_have_them(monkeypatch, variables, expected):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert has_colours(Terminal()) is expected
    assert not has_colours(io.StringIO())


def test_a_background_ends_with_its_line():
    assert paint("a\nb\n", "7") == "\x1b[7ma\x1b[0m\n\x1b[7mb\x1b[0m\n"
    assert paint("a\n", "") == "a\n"


@pytest.mark.parametrize(
    ("probability", "shown"),
    [
        (1.0, "100%"),
        (0.336, "34%"),
        (0.1, "10%"),
        (0.021, "2.1%"),
        (0.003, "0.3%"),
        (0.0005, "0.1%"),
        (0.0004, "<0.1%"),
        (0.0, "<0.1%"),
    ],
)
def test_percent(probability, shown):
    assert percent(probability) == shown


def test_every_level_is_in_the_legend(talk, monkeypatch):
    text = chat.legend()
    assert all(style in text for _, style in LEVELS)
    assert [f"{least:.0%}" in text for least, _ in LEVELS[:-1]] == [True] * 4
    assert text.count("1%") == 2  # at least, and less


def test_a_terminal_is_shown_control_characters_and_does_not_obey_them(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    for out, expected in (
        (Terminal(), "␛[2J␍\t\n\ufffd␡a\n"),
        (io.StringIO(), "\x1b[2J\r\t\n\x9b\x7fa\n"),
    ):
        Printer(False, out).print("\x1b[2J\r\t\n", [piece("\x9b\x7fa", 0.5)])
        assert out.getvalue() == expected


def test_the_mean_surprise_worked_out_by_hand():
    printer = Printer(False, io.StringIO())
    assert printer.surprise() == "No tokens, no surprise."
    steps = [Step(0, math.log(2), 0.0), Step(0, math.log(8), math.log(4))]
    printer.print("", [Piece("a", steps)])
    assert printer.surprise() == (
        "Mean surprise of 2 tokens: 1.39 nats per token, perplexity 4.0 (as they were drawn: 0.69, "
        "2.0)."
    )


def test_a_continuation_with_probabilities_ends_with_its_mean(talk, tokenizer, monkeypatch):
    monkeypatch.setattr(chat, "stream", stream_of(tokenizer, " sat"))
    settings = replace(SETTING, tokens=1)
    out, err = talk("The cat", "/probabilities on", "/more", settings=settings)
    assert out == "The cat sat\n… sat(0.5)\n"
    assert err.splitlines()[-1] == (
        "Mean surprise of 1 tokens: 0.69 nats per token, perplexity 2.0 (as they were drawn: 1.39, "
        "4.0)."
    )


def test_each_piece_is_flushed(tokenizer):
    class Pipe(io.StringIO):
        flushed = 0

        def flush(self):
            self.flushed = len(self.getvalue())

    out = Pipe()

    def continuation():
        assert out.flushed == 2
        yield piece(" the", 0.5)
        assert out.flushed == 6

    Printer(False, out).print("On", continuation())


# -- the commands ---------------------------------------------------------------------------------


def test_one_text_is_streamed_and_many_are_as_before(capsys, monkeypatch):
    from llmlite.pretrained import load_pretrained

    shipped = load_pretrained()
    (text,) = complete(shipped.model, shipped.tokenizer, "The cat", 9, temperature=0.8, seed=3)
    arguments = ["generate", "The cat", "--tokens", "9", "--seed", "3", "--top-k", "99999"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out == f"\nThe cat{text}\n"
    assert err == f"{shipped}\n"  # and no progress bar

    assert main([*arguments, "--probabilities"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("\nThe cat")
    assert out.count("(0.") + out.count("(1)") >= 1
    assert err.splitlines()[1].startswith("Mean surprise of")

    assert main([*arguments, "-n", "2"]) == 0
    assert capsys.readouterr().out.count("\nThe cat") == 2

    assert main([*arguments, "-n", "2", "--probabilities"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == (
        "",
        "llmlite: --probabilities shows those of one text; leave out -n.\n",
    )


def test_the_options_of_chat_are_its_first_settings(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("The cat\n"))
    options = ["--tokens", "4", "--top-k", "7", "--top-p", "0.5", "--temperature", "0.3"]
    assert main(["chat", *options, "--seed", "8"]) == 0
    out, err = capsys.readouterr()
    assert main(["generate", "The cat", *options, "--seed", "8"]) == 0
    assert "\n" + out == capsys.readouterr().out
    assert "the model that comes with llmlite" in err.splitlines()[0]
    assert main(["chat", "--temperature", "-1"]) == 2
    assert "temperature is -1.0" in capsys.readouterr().err


HEAVY = ("pandas", "datasets", "matplotlib", "scipy", "nltk", "transformers", "torch._dynamo")


def test_a_text_does_not_wait_for_libraries_that_it_does_not_need():
    """In place of a time, which would depend on the machine: what has been imported by the end."""
    code = (
        "import sys; from llmlite.cli import main; main(['generate', 'The cat', '--tokens', '2']); "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.startswith("\nThe cat"), run.stderr
    assert run.stdout.splitlines()[-1] == "[]"
