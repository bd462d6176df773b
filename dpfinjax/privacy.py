"""The privacy statement of a trained model: what is claimed, and under which assumptions."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from dpfinjax import workdir

RELATION = "add-or-remove-one"


class Tuning(NamedTuple):
    """A private choice that a claim includes, see `dpfinjax.tuning`.

    Attributes:
      epsilon_without_tuning: what the training of the chosen model spent; no claim by itself.
      mean_runs: the expected number of runs, of which the best was chosen.
      shape: the distribution of their number.
      candidates: how many settings a run could have.
    """

    epsilon_without_tuning: float
    mean_runs: float
    shape: float
    candidates: int


class Statement(NamedTuple):
    """An (epsilon, delta) differential privacy claim and the numbers it was computed from.

    Attributes:
      epsilon: the privacy loss that was spent; inf where nothing is guaranteed.
      delta: the chance that the bound of epsilon fails, the sampler's overflow included.
      noise_multiplier: standard deviation of the noise over the clip norm.
      clip_norm: the largest l2 norm of one unit's contribution to a step.
      sample_rate: the chance of each unit to be in a step's batch.
      steps: number of noisy steps.
      batch_size: the expected batch size, sample rate times number of units.
      examples: number of training examples that are protected: of units, windows or larger.
      overflow_probability: the part of delta that pays for batches larger than the sampler holds.
      unit: what one unit is: the thing that is protected.
      sampler: how batches are drawn.
      accountant: "rdp" or "pld".
      assumptions: sentences without which the claim does not hold.
      published_epsilon: what the original program's formula gives for this run, which is not the
        epsilon of any run; None where it was not asked for.
      tuning: the choice of this model among others, which epsilon includes; None without one.
      windows_per_unit: the most windows of a unit that are used; None where a window is the unit.
      windows_used: how many training windows are used; None likewise.
      windows_left_out: how many are not, because their unit has too many; None likewise.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    clip_norm: float
    sample_rate: float
    steps: int
    batch_size: float
    examples: int
    overflow_probability: float
    unit: str
    sampler: str
    accountant: str
    assumptions: tuple[str, ...]
    published_epsilon: float | None = None
    tuning: Tuning | None = None
    windows_per_unit: int | None = None
    windows_used: int | None = None
    windows_left_out: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `privacy.json`; infinities are the string "inf"."""
        content = {name: _json_number(value) for name, value in self._asdict().items()}
        content["neighbouring_relation"] = RELATION
        content["assumptions"] = list(self.assumptions)
        if self.windows_used is not None and self.windows_left_out is not None:
            windows = self.windows_used + self.windows_left_out
            content["assumptions"].append(
                f"Of {windows} training windows {self.windows_used} are used; these two numbers "
                "are not covered."
            )
        for name in ("published_epsilon", "windows_per_unit", "windows_used", "windows_left_out"):
            if content[name] is None:
                del content[name]
        del content["tuning"]
        if self.tuning is not None:
            choice = self.tuning._asdict()
            content |= {name: _json_number(value) for name, value in choice.items()}
        return content

    def shareable(self) -> "Statement":
        """Returns the claim with nothing beside it that epsilon does not cover.

        Left are settings, the choice among candidates, which epsilon includes, and the number of
        units, which the assumptions call public, with what follows from it.
        """
        return self._replace(published_epsilon=None, windows_used=None, windows_left_out=None)

    def sentence(self) -> str:
        """Returns the claim in plain words."""
        if math.isinf(self.epsilon):
            return (
                "This model is not differentially private: nothing bounds what it tells about "
                f"{self.unit}."
            )
        readable = self.epsilon < math.log(1e6)
        factor = rounded_up(math.exp(self.epsilon)) if readable else f"e^{shown(self.epsilon)}"
        delta = rounded_up(self.delta)
        spent = (
            f"Noise multiplier {self.noise_multiplier:.4g}, sample rate {self.sample_rate:.4g}, "
            f"{self.steps} steps, {self.accountant.upper()} accountant"
        )
        outcome = "this training"
        if self.tuning is not None:
            outcome = "these trainings and the choice of the best"
            spent += (
                f", the best of {self.tuning.mean_runs:g} runs on average; its training alone has "
                f"epsilon = {shown(self.tuning.epsilon_without_tuning)}"
            )
        return (
            f"epsilon = {shown(self.epsilon)} at delta = {delta}: adding or removing {self.unit} "
            f"changes the chance of any outcome of {outcome} by a factor of at most {factor}, "
            f"except for a chance of {delta}. ({spent}; the assumptions are in privacy.json.)"
        )


def rounded_up(value: float) -> str:
    """Returns a positive number to four digits, never less than it is.

    >>> rounded_up(7.38906)
    '7.39'
    """
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    digits = math.ceil(value / unit - 1e-9)  # what is a whole number but for rounding stays one
    text = f"{digits * unit:.4g}"
    return text if float(text) >= value else f"{(digits + 1) * unit:.4g}"


def shown(epsilon: float) -> str:
    """Returns an epsilon as text, rounded up: what is printed never promises too much.

    >>> shown(3.00001)
    '3.001'
    """
    return f"{math.ceil(epsilon * 1000) / 1000:.10g}" if math.isfinite(epsilon) else "inf"


class Claim(Protocol):
    """A statement of any mechanism."""

    @property
    def epsilon(self) -> float:
        """The privacy loss that was spent; inf where nothing is guaranteed."""

    @property
    def delta(self) -> float:
        """The chance that the bound of epsilon fails."""

    @property
    def noise_multiplier(self) -> float:
        """Noise over the clip norm."""

    @property
    def clip_norm(self) -> float:
        """The most that one unit can contribute."""

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `privacy.json`."""

    def sentence(self) -> str:
        """Returns the claim in plain words."""

    def shareable(self) -> "Claim":
        """Returns the claim with nothing beside it that epsilon does not cover."""


def write(path: str | Path, statements: Mapping[str, Claim], named: bool) -> None:
    """Writes `privacy.json`: each statement under its model's name, or the only one as it is."""
    contents = {name: statement.to_json() for name, statement in statements.items()}
    workdir.write_json(path, contents if named else next(iter(contents.values())))


def _json_number(value: Any) -> Any:
    """Infinity as a string, since JSON has none."""
    return "inf" if isinstance(value, float) and math.isinf(value) else value
