"""`llmlite …`: what the notebooks do, for a shell. Errors are one sentence and exit code 2."""

import argparse
import os
import sys
from pathlib import Path

from llmlite.errors import LLMLiteError
from llmlite.profiles import PROFILES

DESCRIPTION = """\
A reproduction of "Implement a LLM-Lite": a tokenizer, a GPT, a grid search and what they show.
Every command works in one folder (--out) and makes what an earlier one has not left there:
prepare -> search -> train -> evaluate, generate. `audit` makes the runs that show where the paper's
perplexity comes from; `reproduce` runs all of it as notebooks."""


def build_parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    group = shared.add_argument_group("what to work on")
    group.add_argument(
        "--profile",
        default="auto",
        metavar="NAME",
        help=f"auto, {', '.join(PROFILES)}: how much to run; auto is full with CUDA and quick "
        "without (default: auto)",
    )
    group.add_argument(
        "--data",
        metavar="SOURCE",
        help="sample, hub, a folder of wiki.{train,valid,test}.{raw,tokens}, or auto: the folder "
        "in $LLMLITE_DATA or else the Hub (default: sample for quick, auto for the others)",
    )
    group.add_argument(
        "--out",
        metavar="DIR",
        help="folder for everything that is made (default: runs/PROFILE)",
    )
    group.add_argument(
        "--device", default="auto", help="auto, cpu or cuda (default: auto: cuda if there is one)"
    )

    choices = argparse.ArgumentParser(add_help=False)
    group = choices.add_argument_group("data, where it should differ from the profile")
    group.add_argument(
        "--split",
        choices=["official", "paper"],
        help="official splits, or the paper's 80/10/10 cut between articles",
    )
    group.add_argument(
        "--vocab-size", type=int, metavar="N", help="tokens in the vocabulary, 257 or more"
    )
    group.add_argument("--block-size", type=int, metavar="N", help="tokens in a window")
    group.add_argument(
        "--stride", type=int, metavar="N", help="tokens from a window's start to the next one's"
    )
    group.add_argument(
        "--name",
        choices=["wikitext-2-raw-v1", "wikitext-2-v1", "wikitext-103-raw-v1", "wikitext-103-v1"],
        help="the Hub's configuration, where the text comes from the Hub (default: "
        "wikitext-2-raw-v1)",
    )
    group.add_argument(
        "--stream",
        action="store_true",
        default=None,
        help="read the text as a stream and leave its tokens on disk, for a corpus larger than "
        "memory (default: both are held in memory)",
    )

    watched = argparse.ArgumentParser(add_help=False)
    watched.add_argument(
        "--tensorboard",
        action="store_true",
        help="write event files into tensorboard/ in each run's folder (default: none)",
    )

    model = argparse.ArgumentParser(add_help=False)
    group = model.add_argument_group(
        "the model, where it should differ from the search's best and the profile (give the same "
        "to train, evaluate and generate)"
    )
    group.add_argument("--learning-rate", type=float, metavar="R", help="peak learning rate")
    group.add_argument("--n-layer", type=int, metavar="N", help="number of layers")
    group.add_argument("--n-head", type=int, metavar="N", help="attention heads in a layer")
    group.add_argument("--n-embd", type=int, metavar="N", help="width, a multiple of the heads")
    group.add_argument("--epochs", type=int, metavar="N", help="passes over the training windows")
    group.add_argument("--batch-size", type=int, metavar="N", help="windows in a forward pass")
    group.add_argument(
        "--accumulation", type=int, metavar="N", help="forward passes in an optimiser step"
    )
    group.add_argument(
        "--amp",
        choices=["auto", "fp16", "bf16", "off"],
        help="mixed precision; auto: bf16 on a GPU that has it, fp16 with scaling on older ones, "
        "off on a CPU",
    )
    group.add_argument("--random-seed", type=int, metavar="N", help="of weights and shuffling")
    group.add_argument(
        "--plain",
        action="store_const",
        const=False,
        help="train without any of the fast paths (compiled blocks, CUDA graphs, fused loss)",
    )

    parser = argparse.ArgumentParser(
        prog="llmlite", description=DESCRIPTION, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, run, text, parents):
        command = commands.add_parser(
            name,
            help=text,
            description=text,
            parents=parents,
            epilog=_profile_defaults(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    add("prepare", prepare, "load the corpus, train the tokenizer, encode", [shared, choices])

    command = add(
        "search", search, "train every configuration of a grid", [shared, choices, watched]
    )
    command.add_argument(
        "--grid",
        choices=["first", "revised"],
        default="revised",
        help="first: fixed learning rate; revised: warmup + cosine (default: revised)",
    )
    group = command.add_argument_group(
        "a Ray cluster (pip install llmlite[ray]; --out must be on storage that all machines see)"
    )
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="train the configurations side by side on this cluster: auto (the one this machine "
        "is in), local (one on this machine alone), HOST:PORT or ray://HOST:PORT",
    )
    group.add_argument(
        "--gpus-per-run",
        type=float,
        metavar="F",
        help="part of a GPU for a configuration, 0 to 1: with 0.25, four share one; above 0 trains "
        "on CUDA whatever this machine has (default: 1 with CUDA here, else 0)",
    )
    group.add_argument(
        "--cpus-per-run", type=int, metavar="N", help="its CPU cores and threads (default: 1)"
    )

    every = [shared, choices, model]
    add("train", train, "train the grid's best configuration from scratch", [*every, watched])
    command = add("evaluate", evaluate, "score the trained model on the test split", every)
    command.add_argument(
        "--all",
        action="store_true",
        help="also in windows that slide by half, and by lm-evaluation-harness's rule, with 95%% "
        "intervals over the articles",
    )

    command = add("generate", generate, "continue a prompt with the model", every)
    command.add_argument("prompt", nargs="?", help="default: the paper's, 'The university student'")
    command.add_argument(
        "--tokens", type=int, default=60, metavar="N", help="new tokens at most (default: 60)"
    )
    command.add_argument("-n", type=int, default=1, help="number of continuations (default: 1)")
    command.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        metavar="T",
        help="0 takes the likeliest token, 1 samples as the model says (default: 0.8)",
    )
    command.add_argument(
        "--top-k", type=int, default=50, metavar="K", help="keep the K likeliest (default: 50)"
    )
    command.add_argument(
        "--top-p", type=float, metavar="P", help="keep the likeliest that hold P (default: all)"
    )
    command.add_argument(
        "--seed", type=int, default=0, help="the same seed gives the same text (default: 0)"
    )

    command = add(
        "audit", audit, "make the runs that show where 1.17 comes from", [shared, choices]
    )
    command.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="the runs whose names start so, such as no-mask or grid-revised (default: all)",
    )
    command.add_argument("--list", action="store_true", help="only name the runs")

    command = commands.add_parser(
        "runs",
        help="list what was trained and how to carry on",
        description="List every run below a folder with its state, its best perplexity and its "
        "age, and the command that carries an unfinished one on.",
    )
    command.add_argument(
        "--out", metavar="DIR", help="the folder to look in (default: the clone's runs/)"
    )
    command.set_defaults(run=runs)

    command = add("reproduce", reproduce, "run the notebooks headlessly with papermill", [shared])
    command.add_argument(
        "--notebooks", metavar="DIR", help="where the notebooks lie (default: notebooks/)"
    )
    command.add_argument(
        "--only", nargs="+", metavar="NN", help="numbers of the notebooks to run, such as 01 04"
    )
    command.add_argument(
        "--publish",
        action="store_true",
        help="afterwards copy executed notebooks, figures and results over the clone's own",
    )
    return parser


def _profile_defaults() -> str:
    """What the profiles choose where no option says otherwise, from the profiles themselves."""
    lines = ["what the profiles choose:"]
    for name, profile in PROFILES.items():
        data, train = profile.data, profile.retrain
        lines.append(
            f"  {name:6} vocabulary {data.vocab_size:,}, windows of {data.block_size} tokens every "
            f"{data.stride or data.block_size}; grids of {len(profile.first_grid)} and "
            f"{len(profile.revised_grid)}; train {train.epochs} epochs, batch {train.batch_size} "
            f"windows × {train.accumulation}, amp {train.amp}, seed {train.seed}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except LLMLiteError as error:
        print(f"llmlite: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"llmlite: {error.filename}: {error.strerror}; name another path.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nllmlite: stopped; the same command carries on from here.", file=sys.stderr)
        return 130
    return 0


def _experiment(arguments):
    # Imports torch: --help should not wait for it.
    from llmlite.experiment import DATA_OPTIONS, TRAINING_OPTIONS, Experiment

    def given(*names):
        values = {name: getattr(arguments, name, None) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    training = given(*TRAINING_OPTIONS.values())
    training = {field: training[o] for field, o in TRAINING_OPTIONS.items() if o in training}
    experiment = Experiment(
        arguments.profile,
        arguments.data,
        arguments.out,
        arguments.device,
        configuration=given("learning_rate", "n_layer", "n_head", "n_embd"),
        training=training,
        tensorboard=getattr(arguments, "tensorboard", False),
        **given(*DATA_OPTIONS),
    )
    if not experiment.world.main:  # under torchrun one process speaks for all
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    print(experiment)
    return experiment


def prepare(arguments) -> None:
    experiment = _experiment(arguments)
    print(experiment.split_table().to_string())
    print(f"Tokenizer and tokens are in {experiment.out}")


def search(arguments) -> None:
    from llmlite.search import best_row

    ray = _ray_options(arguments)
    experiment = _experiment(arguments)
    table = experiment.search(arguments.grid, ray)
    columns = ["learning_rate", "n_layer", "n_head", "n_embd", "status", "perplexity", "seconds"]
    print(table.reindex(columns=columns).to_string(index=False))
    best = best_row(table)
    print(f"Best: {best.run}, validation perplexity {best.perplexity:.2f} per token")
    print(f"Table: {experiment.search_folder(arguments.grid) / 'results.csv'}")


def _ray_options(arguments):
    from llmlite.cluster import RayOptions

    given = {"gpus_per_run": arguments.gpus_per_run, "cpus_per_run": arguments.cpus_per_run}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.ray is None:
        if given:
            raise LLMLiteError("--gpus-per-run and --cpus-per-run go with --ray ADDRESS; add it.")
        return None
    return RayOptions(arguments.ray, **given)


def runs(arguments) -> None:
    from llmlite.experiment import project_root
    from llmlite.runs import report, runs_table

    folder = Path(arguments.out) if arguments.out else project_root() / "runs"
    print(report(runs_table(folder)))


def train(arguments) -> None:
    experiment = _experiment(arguments)
    record = experiment.retrain()
    best = record["best"]
    print(
        f"{record['parameters']:,} parameters, {record['epochs'][-1]['step']:,} steps; best epoch "
        f"{best['epoch']}: validation loss {best['valid_loss']:.4f} nats per token, perplexity "
        f"{best['perplexity']:.2f}"
    )
    print(f"Model, record and step log: {experiment.run_folder}")


def audit(arguments) -> None:
    from llmlite.audit import Audit

    experiment = _experiment(arguments)
    runs = Audit(experiment)
    if arguments.list:
        print("\n".join(runs.names))
        return
    runs.make(arguments.only)
    print(f"Records: {runs.folder}; notebook 08 shows them")


def evaluate(arguments) -> None:
    from llmlite.audit.measures import comparable, score_table

    experiment = _experiment(arguments)
    score = experiment.test_score()
    print(
        f"Test Loss: {score.loss:.4f} nats per token\n"
        f"Test Perplexity: {score.perplexity:.2f} per token, "
        f"{score.word_perplexity:.2f} per word and line end\n"
        f"Bits per byte: {score.bits_per_byte:.4f}\n"
        f"({score.tokens:,} tokens, {score.words:,} words and line ends, {score.bytes:,} bytes; "
        f"context: {score.context})"
    )
    if arguments.all:
        table = score_table([comparable(experiment.model, experiment)])
        print(f"\n{table.T.to_string()}")


def generate(arguments) -> None:
    from llmlite.generate import complete
    from llmlite.paper import GENERATION_PROMPT

    experiment = _experiment(arguments)
    prompt = GENERATION_PROMPT if arguments.prompt is None else arguments.prompt
    for text in complete(
        experiment.model,
        experiment.tokenizer,
        prompt,
        arguments.tokens,
        arguments.n,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        seed=arguments.seed,
        progress=True,
    ):
        print(f"\n{prompt}{text}")


def reproduce(arguments) -> None:
    import torch

    from llmlite.experiment import Experiment, project_root
    from llmlite.profiles import get_profile
    from llmlite.reproduce import find_notebooks, publish, report, run_notebooks

    profile = get_profile(arguments.profile, torch.cuda.is_available()).name
    root = project_root()
    out = Path(arguments.out) if arguments.out else Path("runs") / profile
    folder = Path(arguments.notebooks) if arguments.notebooks else root / "notebooks"
    notebooks = find_notebooks(folder, arguments.only)
    print(f"Profile {profile}: {len(notebooks)} notebooks into {out}")
    executed = run_notebooks(notebooks, out, profile, arguments.data, arguments.device)
    print(report(executed, out))
    if arguments.publish:
        data = arguments.data
        publish(Experiment(profile, data, out, arguments.device, progress=False), root)
        print(f"Published to {root / 'notebooks'} and {root / 'figures'}")


if __name__ == "__main__":
    sys.exit(main())
