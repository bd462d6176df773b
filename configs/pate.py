"""PATE on candlestick images: teachers, noisy votes, a student.

Variants, after a colon:
  (none)   ours: Confident GNMax at a target epsilon.
  gnmax    GNMax whose data-dependent epsilon is published by smooth sensitivity.
  paper    the twenty cells of Wang and Tsai (2022): {1, 10, 20, 50} teachers x Laplace scale
           {1, 10, 30, 50, 100}, every public image answered, with the epsilon really spent.
  quick    a small simulated market.

Examples:
  python -m launch.pate --config=configs/pate.py --config.data.source=bars.csv.gz
  python -m launch.pate --config.teachers=100 --config.target_epsilon=4
"""

from collections.abc import Callable

from ml_collections import ConfigDict, config_dict

from configs import baseline
from configs.common import QUICK_SIM_BARS, common, training, variant_of


def sweep(add: Callable[..., None]) -> None:
    """Adds the twenty cells of the paper's grid."""
    for teachers in (1, 10, 20, 50):
        for scale in (1.0, 10.0, 30.0, 50.0, 100.0):
            add(teachers=teachers, scale=scale)


def _gnmax(config: ConfigDict) -> None:
    config.mechanism = "gaussian"
    config.release = True


def _paper(config: ConfigDict) -> None:
    config.mechanism = "laplace"
    config.target_epsilon = None
    config.scale = 1.0
    config.answers = None
    config.semi_supervised = False
    config.teacher.epochs = 100.0
    for part in ("teacher", "student"):
        config[part].model.variant = "paper_dpsgd"
        config[part].update(learning_rate=1e-3, weight_decay=0.0)
    cells: list[dict[str, float]] = []
    sweep(lambda **cell: cells.append(cell))
    config.cells = tuple(cells)


def _quick(config: ConfigDict) -> None:
    config.data.sim_bars = QUICK_SIM_BARS
    config.teachers = 10
    config.teacher.epochs = 20.0
    config.student.epochs = 40.0


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a variant.

    Its fields beside those of `data` and of the two trainings, `teacher` and `student`:
      teachers: how many.
      mechanism: "confident", "gaussian" or "laplace".
      target_epsilon or scale: one of them; scale is the noise of an answer, in votes.
      threshold: votes that "confident" asks for before it answers; None for 0.6 of all teachers.
      check_ratio: the noise of that check over the noise of the answer.
      queries: how many public images are asked; None for all. Those that cannot be answered any
        more are not asked without "confident".
      answers: how many of them are answered at most; None for all.
      semi_supervised: whether a second student also learns the first one's answers to the rest.
      release: whether "gaussian" publishes its data-dependent epsilon, which itself costs some.
    """
    config = common()
    for field in set(training()) - {"seed", "target_epsilon", "delta", "privacy"}:
        del config[field]
    for part in ("teacher", "student"):
        config[part] = training()
        config[part].update(baseline.without_privacy())
    config.teachers = 100
    config.mechanism = "confident"
    config.target_epsilon = 8.0
    config.scale = config_dict.placeholder(float)
    config.threshold = config_dict.placeholder(float)
    config.check_ratio = 3.0
    config.queries = config_dict.placeholder(int)
    config.answers = config_dict.placeholder(int)
    config.answers = 150
    config.semi_supervised = True
    config.release = False
    # So few images want larger steps than a whole training split.
    config.teacher.update(batch_size=32, epochs=60.0, learning_rate=1e-2)
    config.student.update(batch_size=32, epochs=120.0, learning_rate=1e-2)
    variants = {"gnmax": _gnmax, "paper": _paper, "quick": _quick}
    variant_of("configs/pate.py", variants, variant)(config)
    return config
