"""Trains a differentially private candlestick classifier by DP-SGD and says what it costs.

Bars are read, cut into images, and a model is trained on them with clipped, noisy gradients. The
epsilon that was really spent is printed and written, with a table of accuracies and pictures.

  python -m launch.dpsgd --config=configs/dpsgd.py:quick
  python -m launch.dpsgd --config.data.source=bars.csv.gz --config.target_epsilon=2
  python -m launch.dpsgd --config=configs/dpsgd.py:paper --config.data.source=ETH_gaf.pkl

The same command with the same --workdir goes on where it was stopped. Every setting is a field of
the config file and can be given as --config.<field>=<value>.
"""

from pathlib import Path

from ml_collections import ConfigDict

from dpfinjax import (
    data,
    entropy,
    experiment,
    models,
    privacy,
    release,
    results,
    selection,
    workdir,
)
from dpfinjax.data.patterns import PATTERNS
from launch import app


def train_and_evaluate(config: ConfigDict, folder: str | Path) -> list[experiment.Outcome]:
    """Trains the models that a config asks for, one after another, and reports them.

    With `config.sweep.select` "private" it reports only the best of them, see `select_the_best`.

    Args:
      config: as `configs/dpsgd.py` makes it.
      folder: the run's folder, see `workdir.claim`.

    Returns:
      The outcome of each model.

    Raises:
      InputError: for a config, data or folder that cannot be used.
    """
    if selection.wanted(config):
        return select_the_best(config, folder)
    experiment.models_of(config)
    workdir.check(folder, config)
    facts = data.describe(config)
    splits = experiment.splits_of(config, facts)
    settled = entropy.settled(config, folder)
    runs = experiment.runs_of(settled, facts)
    folder = workdir.claim(folder, config, experiment.bound(runs, facts))
    entropy.keep(settled, folder)

    outcomes: list[experiment.Outcome] = []
    known = results.count(folder / "results.csv")
    for finished in experiment.train_all(runs, splits, folder, config.models_at_once):
        outcomes += finished
        for outcome in finished:
            (run,) = (run for run in runs if run.name == outcome.name)
            place = folder / run.name if len(runs) > 1 else folder
            _release(place, run, outcome)
        if len(outcomes) >= known:  # a resumed run never writes less than is there
            results.write(folder / "results.csv", [outcome.row for outcome in outcomes])
            statements = {outcome.name: outcome.statement for outcome in outcomes}
            privacy.write(folder / "privacy.json", statements, named=len(runs) > 1)
    if config.seeds > 1:
        results.write_summary(folder / "summary.csv", [outcome.row for outcome in outcomes])
    for outcome in outcomes:
        print(f"{outcome.name}: {outcome.statement.sentence()}")
    print(f"\n{results.table([outcome.row for outcome in outcomes])}\n\nWritten to {folder}")
    return outcomes


def select_the_best(config: ConfigDict, folder: str | Path) -> list[experiment.Outcome]:
    """Trains a random number of a config's cells, chosen by chance, and reports only the best.

    Epsilon is that of the whole choice, and with `config.target_epsilon` within it.

    Args:
      config: with `config.sweep.select` "private".
      folder: the run's folder; what must not be shared is in its `private/`.

    Returns:
      The outcome of the best model, or nothing where no run was drawn.

    Raises:
      InputError: for a config, data or folder that cannot be used.
    """
    workdir.check(folder, config)
    splits, facts = data.load(config), data.describe(config)
    settled = entropy.settled(config, folder)
    chosen = selection.plan(settled, facts)
    folder = workdir.claim(folder, config, experiment.bound(chosen.candidates, facts))
    entropy.keep(settled, folder)
    workdir.claim(folder / selection.PRIVATE, config, selection.bound(chosen))

    outcome = selection.train(chosen, splits, folder, config.models_at_once)
    if outcome is None:
        spent = privacy.shown(chosen.candidates[0].plan.statement.epsilon)
        print(
            f"By chance the number of runs is 0, so no model is shared; epsilon = {spent} is spent "
            "all the same. Another folder or config.seed draws again, and spends it again."
        )
        return []
    results.write(folder / "results.csv", [outcome.row])
    privacy.write(folder / "privacy.json", {outcome.name: outcome.statement}, named=False)
    (run,) = (run for run in chosen.candidates if run.name == outcome.name)
    _release(folder, run, outcome)
    print(f"{outcome.name}: {outcome.statement.sentence()}")
    print(
        f"\n{results.table([outcome.row])}\n\nWritten to {folder}; share nothing but its release/"
    )
    return [outcome]


def _release(folder: Path, run: experiment.Run, outcome: experiment.Outcome) -> None:
    """Writes what may be shared of a private model."""
    module = models.build(**run.config.model)
    start = "random parameters"
    if run.plan.spec.start:
        start = "parameters trained on a simulated market, which is public"
    release.write(
        folder,
        run.cell,
        release.Model(module, outcome.params, PATTERNS, run.config.data.length),
        outcome.statement,
        f"Trained by DP-SGD (clipped gradients and Gaussian noise) from {start}.",
    )


if __name__ == "__main__":
    app.run(train_and_evaluate, "dpsgd")
