"""The whole plan of a profile: everything that its notebooks show, in the order in which it is
missed most. Where the best of a search is trained again (of the revised grid, of an optimiser's
rates), it is in the plan once that is searched."""

from collections.abc import Sequence

from llmlite.audit.runs import Audit
from llmlite.beyond.plan import Beyond
from llmlite.beyond.tuning import tuning_run
from llmlite.experiment import Experiment
from llmlite.files import LLMLiteError
from llmlite.run import Run


def whole_plan(experiment: Experiment) -> list[Run]:
    audit = Audit(experiment)
    seeds = experiment.profile.seeds if experiment.known_configuration else ()
    longest, *long = [*map(experiment.retraining, seeds), *audit.honest_runs.values()]
    leaks, grids = dict(audit.leak_runs), dict(audit.grid_runs)
    return [
        # The longest run is begun early: beside others it takes a multiple of its own time.
        longest,
        leaks.pop("no-mask-deep"),
        *long,
        *experiment.grid("revised"),
        *grids.pop(f"grid-revised-seed-{audit.config.seeds[0]}"),
        *leaks.values(),
        *experiment.grid("first"),
        *(run for runs in grids.values() for run in runs),
        *Beyond(experiment).runs(),
        *tuning_run(experiment),
    ]


def chosen(plan: list[Run], only: Sequence[str] | None = None) -> list[Run]:
    """Those whose names begin with one of `only`, what two want alike only once."""
    kept: dict[tuple, Run] = {}
    for run in plan:
        if not only or run.name.startswith(tuple(only)):
            kept.setdefault((run.data, run.model, run.train, frozenset(run.measures)), run)
    if not kept:
        said = f"Nothing in the plan begins with {', '.join(only)}"
        later = "where the best of a grid is retrained, that is in it once the grid is searched"
        raise LLMLiteError(f"{said}; `llmlite run --list` names it all ({later}).")
    return list(kept.values())
