"""prepare, search, train, evaluate, audit and runs: from text to a model and its scores."""

from collections.abc import Callable
from pathlib import Path

from llmlite.cli.options import (
    data_options,
    experiment_of,
    model_options,
    shared_options,
    tensorboard_option,
)
from llmlite.errors import LLMLiteError


def add_commands(add: Callable) -> None:
    text = [shared_options(), data_options()]
    every = [*text, model_options()]
    add("prepare", prepare, "load the corpus, train the tokenizer, encode", text)

    command = add(
        "search",
        search,
        "train every configuration of a grid",
        [shared_options(), data_options(), tensorboard_option()],
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

    purpose = "train one configuration from scratch: the profile's, or else the grid's best"
    add("train", train, purpose, [*every, tensorboard_option()])
    command = add("evaluate", evaluate, "score the trained model on the test split", every)
    command.add_argument(
        "--all",
        action="store_true",
        help="also in windows that slide by half, and by lm-evaluation-harness's rule, with 95%% "
        "intervals over the articles",
    )

    command = add(
        "audit",
        audit,
        "make the runs that show where 1.17 comes from",
        [shared_options(), data_options()],
    )
    command.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="the runs whose names start so, such as no-mask or grid-revised (default: all)",
    )
    command.add_argument("--list", action="store_true", help="only name the runs")

    command = add("runs", runs, "list what was trained and how to carry on", [])
    command.description = (
        "List every run below a folder with its state, its best perplexity and its age,\n"
        "and the command that carries an unfinished one on."
    )
    command.add_argument(
        "--out", metavar="DIR", help="the folder to look in (default: the clone's runs/)"
    )


def prepare(arguments) -> None:
    experiment = experiment_of(arguments)
    print(experiment.split_table().to_string())
    print(f"Tokenizer and tokens are in {experiment.out}")


def search(arguments) -> None:
    from llmlite.search import best_row

    ray = _ray_options(arguments)
    experiment = experiment_of(arguments)
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


def train(arguments) -> None:
    experiment = experiment_of(arguments)
    record = experiment.retrain()
    best = record["best"]
    print(
        f"{record['parameters']:,} parameters, {record['epochs'][-1]['step']:,} steps; best epoch "
        f"{best['epoch']}: validation loss {best['valid_loss']:.4f} nats per token, perplexity "
        f"{best['perplexity']:.2f}"
    )
    print(f"Model, record and step log: {experiment.run_folder}")


def evaluate(arguments) -> None:
    from llmlite.audit.measures import comparable, score_table

    experiment = experiment_of(arguments)
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
        table = score_table([comparable(experiment.model, experiment.dataset, experiment.progress)])
        print(f"\n{table.T.to_string()}")


def audit(arguments) -> None:
    from llmlite.audit import Audit

    experiment = experiment_of(arguments)
    runs = Audit(experiment)
    if arguments.list:
        print("\n".join(runs.names))
        return
    runs.make(arguments.only)
    print(f"Records: {runs.folder}; notebook 08 shows them")


def runs(arguments) -> None:
    from llmlite.experiment import project_root
    from llmlite.runs import report, runs_table

    folder = Path(arguments.out) if arguments.out else project_root() / "runs"
    print(report(runs_table(folder)))
