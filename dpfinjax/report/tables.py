"""Tables of a page: with a caption, with headers that name rows and columns, and sortable."""

import html
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dpfinjax.report import recognition, recommendation, seeds, wording
from dpfinjax.report.record import Model, Study

_MISSING = f'<span aria-hidden="true">{wording.NONE}</span><span class="hidden">none</span>'
# The strongest shade of a heat map lets the text on it be read in every colour scheme.
_STRONGEST_SHADE = 55


class Cell(NamedTuple):
    """One cell.

    Attributes:
      text: what it says, not escaped.
      rank: what it is sorted by; None sorts it by its text, nan puts it last.
      shade: how strong its background is, in [0, 1]; None leaves it plain.
    """

    text: str
    rank: float | None = None
    shade: float | None = None


def table(
    key: str,
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[Cell | str]],
    sortable: bool = True,
) -> str:
    """Returns a table in a box of its own that scrolls where the table is wider than the page.

    Args:
      key: its id within the page.
      caption: what it shows.
      header: a name for each column; the first column names the rows.
      rows: cells, as many in each.
      sortable: whether the page's script makes buttons of the header.

    Returns:
      HTML, empty where there are no rows.
    """
    if not rows:
        return ""
    heads = "".join(
        f'<th scope="col"{_kind(column)}>{html.escape(name)}</th>'
        for name, column in zip(header, zip(*rows, strict=True), strict=True)
    )
    body = "\n".join(f"<tr>{_row(row)}</tr>" for row in rows)
    kind = ' class="sortable"' if sortable else ""
    name = html.escape(caption.split(".")[0].split(":")[0])
    return (
        f'<div class="scroll" role="region" aria-label="{name}" tabindex="0">\n'
        f'<table id="{key}"{kind}>\n'
        f"<caption><span>{html.escape(caption)}</span></caption>\n"
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>\n"
    )


def results(study: Study, recommended: Model | None) -> str:
    """Returns the table of all models: privacy, accuracy, attacks, audits."""
    named = wording.labels(study.models)
    deltas = {model.delta for model in study.models if not math.isinf(model.epsilon)}
    shared = next(iter(deltas)) if len(deltas) == 1 else None
    rows = [_result(model, named[model.name], recommended, shared) for model in study.models]
    caption = (
        "Every model. Accuracies are means over seeds with their standard deviation; the interval "
        "is the 95\u00a0% t-interval of the mean. AUC is that of the strongest attack with its "
        "95\u00a0% interval; TPR is the share of training windows that it finds while it calls "
        "0.1\u00a0% of the others such. What the published formula gives is not the epsilon of the "
        "model."
    ) + ("" if shared is None else f" Each epsilon is at delta {wording.number(shared)}.")
    return table("results", caption, *_known(_RESULTS, rows))


_RESULTS = (
    "model",
    "epsilon",
    "epsilon with tuning",
    "published formula",
    "delta",
    "noise multiplier",
    "validation",
    "test",
    "interval of the test mean",
    "seeds",
    "AUC",
    "TPR",
    "audit: epsilon at least",
)


def _known(
    header: Sequence[str], rows: Sequence[Sequence[Cell | str]]
) -> tuple[list[str], list[list[Cell | str]]]:
    """A table without the columns in which nothing is known."""
    if not rows:
        return [], []
    empty = ("", wording.NONE)
    columns = [
        (name, column)
        for name, column in zip(header, zip(*rows, strict=True), strict=True)
        if not all(isinstance(cell, Cell) and cell.text in empty for cell in column)
    ]
    cells = zip(*(column for _, column in columns), strict=True)
    return [name for name, _ in columns], [list(row) for row in cells]


def attacks(study: Study) -> str:
    """Returns the table of all attacks, empty where there was none."""
    named = wording.labels(study.models)
    rows = []
    for model in study.models:
        for attack in model.attacks:
            low, high = (wording.percent(end) for end in attack.tpr_interval)
            lucky = recommendation.within_chance(attack, len(model.attacks))
            chance = "within chance" if lucky else "above chance"
            tpr = f"{wording.percent(attack.tpr)} ({low} to {high})"
            rows.append(
                (
                    named[model.name],
                    attack.name,
                    Cell(wording.area(attack), attack.auc),
                    Cell(tpr, attack.tpr),
                    chance,
                )
            )
    caption = (
        "Every attack: area under the curve and true-positive rate, with 95\u00a0% intervals. The "
        "verdict asks 95\u00a0% of all attacks on a model together."
    )
    header = ("model", "attack", "AUC", "TPR at a false-positive rate of 0.1\u00a0%", "verdict")
    return table("attacks-table", caption, header, rows)


def audited(study: Study) -> str:
    """Returns the table of all audits, a row for every model."""
    named = wording.labels(study.models)
    rows = [
        (
            named[model.name],
            Cell(wording.epsilon(model.epsilon), model.epsilon),
            audit.name if audit else "not audited",
            _bound(audit.lower if audit else None),
            f"{100 * audit.confidence:.4g}\u00a0%" if audit else "",
            "" if not audit else "refuted" if audit.lower > model.epsilon else "not refuted",
        )
        for model in study.models
        for audit in (model.audits or (None,))
    ]
    header = (
        "model",
        "stated epsilon",
        "audit",
        "epsilon at least",
        "confidence",
        "stated epsilon is",
    )
    caption = "Every audit. A lower bound above the stated epsilon would refute it."
    return table("audits-table", caption, header, rows)


def recognised(study: Study) -> str:
    """Returns the table of recognition rates, empty where none is known."""
    named = wording.labels(study.models)
    rows = []
    for model in study.models:
        own, others = recognition.mean(model.members), recognition.mean(model.nonmembers)
        if math.isfinite(own) or math.isfinite(others):
            rows.append(
                (
                    named[model.name],
                    Cell(wording.number(own), own),
                    Cell(wording.number(others), others),
                    Cell(_signed(own - others), own - others),
                    Cell(f"{len(model.members):,}", len(model.members)),
                    Cell(f"{len(model.nonmembers):,}", len(model.nonmembers)),
                )
            )
    header = (
        "model",
        "mean of training windows",
        "mean of windows never seen",
        "difference",
        "training windows",
        "windows never seen",
    )
    caption = "Recognition rate: mean membership probability given by the paper's attack."
    return table("recognition-table", caption, header, rows)


def per_pattern(study: Study) -> str:
    """Returns the heat map of test accuracy by pattern, empty where none is known."""
    return _heat(
        "accuracy",
        "Test accuracy of each pattern, all seeds together. The darker, the more accurate: from "
        "{low} to {high}.",
        study,
        lambda model: model.per_pattern,
    )


def exposure(study: Study) -> str:
    """Returns the heat map of exposure by pattern, empty where none is known."""
    return _heat(
        "exposure",
        "Exposure of each pattern: training windows that an attack finds at a false-positive rate "
        "of 5\u00a0%; a guess finds 5\u00a0%. The darker, the more exposed: from {low} to {high}.",
        study,
        lambda model: model.exposure,
    )


def counts(study: Study) -> str:
    """Returns the table of examples by pattern and split, with totals, empty without splits."""
    if not study.counts:
        return ""
    patterns = list(dict.fromkeys(p for split in study.counts.values() for p in split))
    rows: list[Sequence[Cell | str]] = []
    for pattern in patterns:
        own = [split.get(pattern, 0) for split in study.counts.values()]
        rows.append((pattern, *(Cell(f"{n:,}", n) for n in (*own, sum(own)))))
    totals = [sum(split.values()) for split in study.counts.values()]
    rows.append(("all patterns", *(Cell(f"{n:,}", n) for n in (*totals, sum(totals)))))
    header = ("pattern", *study.counts, "all splits")
    caption = "Windows of each pattern, by split."
    return table("counts", caption, header, rows, sortable=False)


def pairs(key: str, caption: str, header: tuple[str, str], values: Mapping[str, Any]) -> str:
    """Returns a table of names and values."""
    rows = [(name, shown(value)) for name, value in values.items()]
    return table(key, caption, header, rows, sortable=False)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings under dotted names.

    >>> flat({"data": {"source": "a.csv"}, "seed": 0})
    {'data.source': 'a.csv', 'seed': 0}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def shown(value: Any) -> str:
    """Returns a setting as text: strings as they are, the rest as JSON has it."""
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _result(
    model: Model, label: str, recommended: Model | None, shared_delta: float | None
) -> tuple[Cell | str, ...]:
    """One model's row of the results; a delta that all share is in the caption instead."""
    promised = math.isfinite(model.epsilon) and shared_delta is None
    validation, test = seeds.mean(model.validation), seeds.mean(model.test)
    attack = recommendation.strongest(model.attacks)
    chosen = recommended is not None and recommended.name == model.name
    interval = (
        "" if math.isnan(test.low) else f"{100 * test.low:.1f} to {wording.percent(test.high)}"
    )
    return (
        label + (" (recommended)" if chosen else ""),
        Cell(wording.epsilon(model.epsilon), model.epsilon),
        _upper(model.tuned_epsilon),
        _upper(model.published_epsilon),
        Cell(wording.number(model.delta if promised else None), model.delta),
        Cell(wording.number(model.noise_multiplier), _rank(model.noise_multiplier)),
        _accuracy(validation),
        _accuracy(test),
        Cell(interval, test.low),
        Cell(f"{test.seeds}", test.seeds),
        Cell(wording.area(attack), attack.auc) if attack else Cell("", math.nan),
        Cell(wording.percent(attack.tpr), attack.tpr) if attack else Cell("", math.nan),
        _bound(recommendation.audited(model)),
    )


def _accuracy(mean: seeds.Mean) -> Cell:
    """A mean with its standard deviation, where there is one."""
    sd = "" if math.isnan(mean.sd) else f" ± {100 * mean.sd:.1f}"
    return (
        Cell(f"{100 * mean.value:.1f}{sd}\u00a0%", mean.value)
        if math.isfinite(mean.value)
        else Cell("", math.nan)
    )


def _upper(epsilon: float | None) -> Cell:
    """An upper bound on epsilon that may be missing."""
    return Cell(wording.epsilon(epsilon), _rank(epsilon))


def _bound(lower: float | None) -> Cell:
    """A lower bound on epsilon that may be missing."""
    return Cell("" if lower is None else wording.lower_bound(lower), _rank(lower))


def _rank(value: float | None) -> float:
    """What a number is sorted by."""
    return math.nan if value is None else value


def _signed(difference: float) -> str:
    """A difference with its sign."""
    return f"{difference:+.3f}" if math.isfinite(difference) else ""


def _heat(
    key: str, caption: str, study: Study, values: Callable[[Model], Mapping[str, float]]
) -> str:
    """A table of shares, a row a model and a column a pattern, shaded from least to most."""
    named = wording.labels(study.models)
    models = [model for model in study.models if values(model)]
    known = [v for model in models for v in values(model).values() if math.isfinite(v)]
    if not known:
        return ""
    patterns = list(dict.fromkeys(p for model in models for p in values(model)))
    low, high = min(known), max(known)

    def cell(share: float) -> Cell:
        if not math.isfinite(share):
            return Cell("", math.nan)
        return Cell(wording.percent(share), share, (share - low) / max(high - low, 1e-9))

    rows: list[Sequence[Cell | str]] = [
        (named[model.name], *(cell(values(model).get(p, math.nan)) for p in patterns))
        for model in models
    ]
    text = caption.format(low=wording.percent(low), high=wording.percent(high))
    return table(key, text, ("model", *patterns), rows)


def _row(cells: Iterable[Cell | str]) -> str:
    """The cells of a row, the first one as its header."""
    first, *rest = (cell if isinstance(cell, Cell) else Cell(cell) for cell in cells)
    return "".join(
        [f'<th scope="row">{html.escape(first.text)}</th>', *(_cell(cell) for cell in rest)]
    )


def _kind(column: Iterable[Cell | str]) -> str:
    """The class of a column's header."""
    numbers = any(isinstance(cell, Cell) and cell.rank is not None for cell in column)
    return ' class="number"' if numbers else ""


def _cell(cell: Cell) -> str:
    """One cell."""
    text = html.escape(cell.text) if cell.text not in ("", wording.NONE) else _MISSING
    rank = "" if cell.rank is None else f' data-rank="{float(cell.rank)!r}"'
    kind = "" if cell.rank is None else ' class="number"'
    if cell.shade is None:
        return f"<td{kind}{rank}>{text}</td>"
    shade = f"--shade: {_STRONGEST_SHADE * cell.shade:.0f}%"
    return f'<td class="number heat" style="{shade}"{rank}>{text}</td>'
