"""reproduce --text: every stage on somebody's own text, in plain lines with numbers."""

import shlex

from llmlite.errors import LLMLiteError


def reproduce_text(arguments) -> None:
    """Prepare, search, train, score and ship; what an earlier call has made is only shown."""
    # Imports torch: --help should not wait for it.
    from llmlite.ownrun import OwnText
    from llmlite.pretrained import ship

    _refuse_others(arguments)
    experiment = OwnText(arguments.text, arguments.out, arguments.device)
    _describe_text(experiment)
    print(f"\n{experiment}")
    print(experiment.split_table().to_string())
    seen = len(experiment.ids["train"]) / experiment.tokenizer.vocab_size
    print(
        f"Vocabulary: {experiment.tokenizer.vocab_size:,} byte-pair tokens, learnt from the "
        f"training part only; each occurs there {seen:.0f} times on average"
    )
    _search(experiment)
    _train(experiment)
    _scores(experiment)
    print(f"\nHow the test part begins, and how the model goes on:\n\n{experiment.prompt}", end="")
    print(f" →{experiment.sample()}\n")
    folder = experiment.out / "model"
    ship(experiment, folder)
    words = " ".join(experiment.prompt.split()[:4])
    print(f"Model: {folder}; try it with")
    print("  " + shlex.join(["llmlite", "generate", "--model", str(folder), words]))


def _refuse_others(arguments) -> None:
    """--text settles what these options are about."""
    usual = {"profile": "auto", "data": None, "notebooks": None, "only": None, "publish": False}
    others = [f"--{name}" for name, value in usual.items() if getattr(arguments, name) != value]
    if others:
        raise LLMLiteError(
            f"--text chooses data and sizes itself and runs no notebooks; leave out "
            f"{', '.join(others)}."
        )


def _describe_text(experiment) -> None:
    from llmlite.owntext import expectation

    source = experiment.source
    n_files, n_words = len(source.file_ends) + 1, len(source.text.split())
    files = f" in {n_files:,} files" if n_files > 1 else ""
    print(f"{experiment.path}: {source.n_bytes:,} bytes, {n_words:,} words{files}")
    if left := source.left_out:
        more = f" and {len(left) - 3:,} more" if len(left) > 3 else ""
        print(f"Left out, for it is not UTF-8 text: {', '.join(left[:3])}{more}")
    if experiment.out != experiment.base:
        print(
            f"{experiment.base} belongs to another text, or to this one before it was changed; "
            f"this one has a folder of its own: {experiment.out}"
        )
    if expected := expectation(source.n_bytes):
        print(f"This is little text for a model: {expected}")
    before_valid, before_test = experiment.cuts
    print(
        "Split 80/10/10 in the order of the text; the validation part begins between "
        f"{before_valid}, the test part between {before_test}"
    )


def _search(experiment) -> None:
    from llmlite.search import best_row

    table = experiment.search()
    columns = ["learning_rate", "n_layer", "n_head", "n_embd", "status", "perplexity", "seconds"]
    print(f"\nSearch, {len(table)} configurations, validation perplexity per token:")
    print(table.reindex(columns=columns).to_string(index=False))
    best = best_row(table)
    print(f"Best: {best.run}, {best.perplexity:.2f}")


def _train(experiment) -> None:
    record = experiment.retrain()
    best = record["best"]
    print(
        f"\nTrained from scratch: {record['parameters']:,} parameters, "
        f"{record['epochs'][-1]['step']:,} steps, {len(record['epochs'])} of at most "
        f"{experiment.profile.retrain.epochs} epochs; epoch {best['epoch']} was the best, "
        f"validation perplexity {best['perplexity']:.2f} per token"
    )


def _scores(experiment) -> None:
    from llmlite.audit.baselines import measured

    score = experiment.test_score()
    print(
        f"\nTest part: perplexity {score.perplexity:.2f} per token, {score.word_perplexity:.2f} "
        f"per word and line end; {score.bits_per_byte:.4f} bits per byte"
    )
    rows = measured(experiment.dataset, experiment.progress)
    for row in rows:
        print(f"  {row.name}: {row.perplexity:.2f} per word, {row.bits_per_byte:.4f} bits per byte")
    best = min(rows, key=lambda row: row.bits_per_byte)
    verdict = "better" if score.bits_per_byte < best.bits_per_byte else "worse"
    print(f"The model predicts the test part {verdict} than the {best.name}.")
