"""What a study found, as values: everything that its page and its tables are made of."""

from collections.abc import Mapping
from typing import Any, NamedTuple

FAMILIES = ("baseline", "dpsgd", "pretrained", "published", "pate")
"""Kinds of models: without privacy; DP-SGD by our recipes; the same after training on simulated
bars; DP-SGD by the recipe of Wang and Tsai (2022); students of PATE."""


class Attack(NamedTuple):
    """One membership attack on one model.

    Attributes:
      name: "LiRA", "RMIA", ...
      auc: area under the curve, with its 95 % interval, each in [0, 1].
      auc_interval: the interval's ends.
      tpr: true-positive rate at a false-positive rate of 0.1 %.
      tpr_interval: the ends of its 95 % Clopper-Pearson interval.
      curve: pairs (false-positive rate, true-positive rate), ascending, from (0, 0) to (1, 1),
        thinned to a few hundred.
    """

    name: str
    auc: float
    auc_interval: tuple[float, float]
    tpr: float
    tpr_interval: tuple[float, float]
    curve: tuple[tuple[float, float], ...]


class Audit(NamedTuple):
    """One audit of one model's training.

    Attributes:
      name: how the bound was measured.
      lower: lower bound on epsilon at `confidence`.
      confidence: in (0, 1).
    """

    name: str
    lower: float
    confidence: float


class Model(NamedTuple):
    """One way to train a model, over its seeds.

    Attributes:
      name: as in results.csv and in folders' names.
      label: for people: "DP-SGD, epsilon 4".
      family: one of `FAMILIES`.
      epsilon: what one training spends; inf without privacy.
      delta: the chance that the bound fails.
      tuned_epsilon: epsilon of the training and of choosing its settings together; None where the
        choice was not private.
      published_epsilon: what the published formula gives; None elsewhere.
      noise_multiplier: noise over clip norm; None where that has no meaning.
      validation: accuracy on the validation split, of each seed.
      test: accuracy on the test split, of each seed.
      per_pattern: test accuracy of each pattern, all seeds together.
      sentence: the privacy statement in plain words.
      assumptions: without which it does not hold.
      settings: the whole config of the model.
      command: what trains this model alone.
      attacks: every attack on one model of these settings; empty where it was not attacked.
      audits: every audit; empty where there was none.
      members: membership probabilities of the paper's attack for training examples (a sample).
      nonmembers: the same for population examples.
      exposure: true-positive rate at a false-positive rate of 5 % by pattern; empty if unknown.
      release: the folder that may be shared, of its first seed, within the study's; "" if none.
    """

    name: str
    label: str
    family: str
    epsilon: float
    delta: float
    tuned_epsilon: float | None
    published_epsilon: float | None
    noise_multiplier: float | None
    validation: tuple[float, ...]
    test: tuple[float, ...]
    per_pattern: Mapping[str, float]
    sentence: str
    assumptions: tuple[str, ...]
    settings: Mapping[str, Any]
    command: str
    attacks: tuple[Attack, ...] = ()
    audits: tuple[Audit, ...] = ()
    members: tuple[float, ...] = ()
    nonmembers: tuple[float, ...] = ()
    exposure: Mapping[str, float] = {}
    release: str = ""


class Study(NamedTuple):
    """Everything that a report shows.

    Attributes:
      source: the bars, for people: a file's name or "a simulated market".
      unit: what one protected unit is.
      counts: examples by split and pattern.
      pictures: example charts and images, as (caption, PNG bytes).
      models: in the order in which they are to be shown.
      tolerance: how far below the non-private accuracy a recommended model may be, in accuracy.
      command: what makes this report again.
      versions: of Python and the packages.
      remarks: sentences that the reader has to know, such as what so few windows cannot show.
    """

    source: str
    unit: str
    counts: Mapping[str, Mapping[str, int]]
    pictures: tuple[tuple[str, bytes], ...]
    models: tuple[Model, ...]
    tolerance: float
    command: str
    versions: Mapping[str, str]
    remarks: tuple[str, ...] = ()
