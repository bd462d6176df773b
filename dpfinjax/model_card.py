"""The card of a shared model, in the sections of Mitchell et al. (2019)."""

import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

_WIDTH = 100


class Card(NamedTuple):
    """What a card is made of: nothing that the claim does not cover.

    Attributes:
      name: what the model is called.
      sentence: the claim in plain words.
      stated: the content of its `privacy.json`.
      labels: the patterns, in the order of the model's answers.
      length: bars in a window.
      parameters: how many the model has.
      origin: how it was trained, in sentences.
    """

    name: str
    sentence: str
    stated: Mapping[str, Any]
    labels: tuple[str, ...]
    length: int
    parameters: int
    origin: str


def text(card: Card) -> str:
    """Returns a card as Markdown.

    Mitchell et al. (2019), "Model cards for model reporting", name the sections.

    Args:
      card: the facts.
    """
    sections = {
        "Model details": _details(card),
        "Intended use": _use(card),
        "Factors": _factors(card),
        "Metrics": _metrics(card),
        "Evaluation data": _evaluation(card),
        "Training data": _training(card),
        "Privacy and ethical considerations": _privacy(card),
        "Caveats": _caveats(card),
    }
    written = [f"# Model card: {card.name}"]
    written += [f"## {title}\n\n{content}" for title, content in sections.items()]
    return "\n\n".join(written) + "\n"


def _details(card: Card) -> str:
    """What the model is and how to run it."""
    return _paragraph(
        f"A classifier of candlestick patterns with {card.parameters:,} parameters, made by "
        f"dpfinjax. {card.origin}"
    ) + (
        "\n\n- `parameters.npz`: the parameters, float32 arrays without pickle.\n"
        "- `model.json`: the network and what its input is.\n"
        "- `privacy.json`: the privacy statement with all of its numbers and assumptions.\n\n"
        "Run it in a clone of dpfinjax, with this folder as the model:\n\n"
        "    python -m launch.predict --model=release/ --bars=bars.csv"
    )


def _use(card: Card) -> str:
    """What it is for, and what goes in."""
    given = _paragraph(
        f"To name the candlestick pattern that ends on the last bar of a window of {card.length} "
        "bars, for research into private learning. It is no trading advice."
    )
    contract = _paragraph(
        f"Input: {card.length} bars (open, high, low, close) that follow each other without a gap "
        "in time, without those whose close is their open. Close, upper shadow, lower shadow and "
        "real body are each scaled to 0 to 1 within the window and encoded as a Gramian angular "
        f"summation field of {card.length} x {card.length} pixels. Output: a probability for each "
        "of " + ", ".join(card.labels) + "."
    )
    return f"{given}\n\n{contract}"


def _factors(card: Card) -> str:
    """What its quality depends on."""
    del card
    return _paragraph(
        "Market, length of a bar and volatility. Windows are scaled, so the level of prices has no "
        "say. How well it does on other markets or bar lengths than those it was trained on is "
        "unknown."
    )


def _metrics(card: Card) -> str:
    """No figure: whatever it could be measured on is as confidential as what it was trained on."""
    del card
    return _paragraph(
        "None is stated: accuracy was measured on windows of the same bars, and no epsilon covers "
        "such a figure."
    )


def _evaluation(card: Card) -> str:
    """Where a receiver finds out how good it is."""
    del card
    return _paragraph("Windows of one's own, labelled by launch.predict.")


def _training(card: Card) -> str:
    """What it was trained on, as far as that is public."""
    return _paragraph(
        f"Windows of {card.length} bars, each ending on the last bar of a pattern, by the rules of "
        "Chen and Tsai (2020). The bars are treated as confidential: this card tells no more of "
        "them."
    )


def _privacy(card: Card) -> str:
    """The claim, what it means and what it rests on."""
    plain = _paragraph(
        f"The unit that is protected is {card.stated['unit']}. Whoever has this model learns "
        "nearly the same about any such unit as if the model had been trained without it; epsilon "
        "bounds the difference, and a smaller one is better. What many units have in common, such "
        "as the behaviour of the market, is not hidden: it is what the model learns. Sharing more "
        "models of the same bars adds up."
    )
    assumptions = "\n".join(
        textwrap.fill(each, _WIDTH, initial_indent="- ", subsequent_indent="  ")
        for each in card.stated["assumptions"]
    )
    claim = _paragraph(f"**{card.sentence}**")
    return f"{claim}\n\n{plain}\n\nThe claim rests on these assumptions:\n\n{assumptions}"


def _caveats(card: Card) -> str:
    """What a user has to know."""
    return _paragraph(
        f"The model always names one of its {len(card.labels)} patterns, also for a window on "
        "which none ends: it was never shown one. Its probabilities are not calibrated. The "
        "noise of private training costs accuracy, of rare patterns most."
    )


def _paragraph(words: str) -> str:
    """Text in lines of even length."""
    return textwrap.fill(words, _WIDTH, break_long_words=False, break_on_hyphens=False)
