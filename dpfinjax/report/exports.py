"""A study as tables for other programs: CSV for spreadsheets, LaTeX for papers."""

import math
from pathlib import Path
from typing import Any

from dpfinjax import workdir
from dpfinjax.errors import InputError
from dpfinjax.report import recognition, recommendation, seeds, wording
from dpfinjax.report.record import Audit, Model, Study

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "\u00a0": "~",
    wording.NONE: r"\textendash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def write_csv(path: str | Path, study: Study) -> None:
    """Writes `results.csv`: a row a model, numbers with all their digits.

    A model's row has the mean, the standard deviation and the 95 % interval of its accuracies over
    seeds, its epsilons, its strongest attack and the audit with the largest bound. What is unknown
    is empty or nan; an infinite epsilon is inf.

    Args:
      path: where the file goes, replaced as a whole.
      study: everything that was found.

    Raises:
      InputError: the study has no model.
    """
    _check(study)
    recommended = recommendation.recommend(study).model
    workdir.write_csv(path, [_line(model, recommended) for model in study.models])


def write_tex(path: str | Path, study: Study) -> None:
    """Writes `results.tex`: a table for LaTeX with the package booktabs.

    Args:
      path: where the file goes, replaced as a whole.
      study: everything that was found.

    Raises:
      InputError: the study has no model.
    """
    _check(study)
    with workdir.replacing(path) as temporary:
        temporary.write_bytes(_tex(study).encode("utf-8", errors="replace"))


def escaped(text: str) -> str:
    r"""Returns text in which LaTeX finds no command.

    >>> escaped("a_b & 5 %")
    'a\\_b \\& 5 \\%'
    """
    printable = (c if c.isprintable() or c == "\u00a0" else " " for c in text)
    plain = "".join(_SPECIAL.get(character, character) for character in printable)
    return plain.replace("--", "-{-}")  # which would become one dash


def _check(study: Study) -> None:
    """Refuses a study without models."""
    if not study.models:
        raise InputError("study.models is empty; a table of results needs at least one model.")


def _line(model: Model, recommended: Model | None) -> dict[str, Any]:
    """One model's row of the CSV."""
    validation, test = seeds.mean(model.validation), seeds.mean(model.test)
    attack = recommendation.strongest(model.attacks)
    audit = _best(model)
    low, high = attack.auc_interval if attack else (None, None)
    tpr_low, tpr_high = attack.tpr_interval if attack else (None, None)
    return {
        "model": model.name,
        "label": model.label,
        "family": model.family,
        "seeds": test.seeds,
        "epsilon": model.epsilon,
        "tuned_epsilon": model.tuned_epsilon,
        "published_epsilon": model.published_epsilon,
        "delta": model.delta,
        "noise_multiplier": model.noise_multiplier,
        "validation_accuracy": validation.value,
        "validation_accuracy_sd": validation.sd,
        "test_accuracy": test.value,
        "test_accuracy_sd": test.sd,
        "test_accuracy_low": test.low,
        "test_accuracy_high": test.high,
        "attack": attack.name if attack else None,
        "auc": attack.auc if attack else None,
        "auc_low": low,
        "auc_high": high,
        "tpr_0_1pct": attack.tpr if attack else None,
        "tpr_0_1pct_low": tpr_low,
        "tpr_0_1pct_high": tpr_high,
        "recognition_rate": recognition.mean(model.members) if model.members else None,
        "population_rate": recognition.mean(model.nonmembers) if model.nonmembers else None,
        "audit": audit.name if audit else None,
        "audit_lower_bound": audit.lower if audit else None,
        "audit_confidence": audit.confidence if audit else None,
        "recommended": recommended is not None and recommended.name == model.name,
    }


def _best(model: Model) -> Audit | None:
    """The audit with the largest lower bound."""
    known = [audit for audit in model.audits if math.isfinite(audit.lower)]
    return max(known, key=lambda audit: audit.lower, default=None)


_HEADER = (
    r"Model & $\varepsilon$ & $\delta$ & Seeds & Validation & Test & AUC & TPR & "
    r"$\varepsilon \geq$ \\"
)


def _tex(study: Study) -> str:
    """The whole table."""
    named = wording.labels(study.models)
    rows = []
    for place, model in enumerate(study.models):
        new = place and model.family != study.models[place - 1].family
        rows.append((r"\midrule" + "\n" if new else "") + _tex_row(model, named[model.name]))
    recommended = recommendation.recommend(study).sentence
    caption = (
        f"Accuracy and privacy on {escaped(study.source)}. Accuracies: mean $\\pm$ standard "
        "deviation over seeds. AUC and TPR (at a false-positive rate of 0.1\\,\\%): strongest "
        "attack. Last column: the largest lower bound of an audit. Protected unit: "
        f"{escaped(study.unit)}. {escaped(recommended)}"
    )
    return "\n".join(
        (
            "% Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}.",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            r"\label{tab:dpfinjax}",
            r"\begin{tabular}{lrrrrrrrr}",
            r"\toprule",
            _HEADER,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        )
    )


def _tex_row(model: Model, label: str) -> str:
    """One model's row."""
    infinite = math.isinf(model.epsilon)
    attack, audit = recommendation.strongest(model.attacks), _best(model)
    cells = (
        escaped(label),
        r"$\infty$" if infinite else escaped(wording.epsilon(model.epsilon)),
        escaped(wording.number(None if infinite else model.delta)),
        str(len(model.test)),
        _tex_accuracy(seeds.mean(model.validation)),
        _tex_accuracy(seeds.mean(model.test)),
        escaped(f"{attack.auc:.3f}" if attack else wording.NONE),
        escaped(wording.percent(attack.tpr) if attack else wording.NONE),
        escaped(wording.lower_bound(audit.lower) if audit else wording.NONE),
    )
    return " & ".join(cells) + r" \\"


def _tex_accuracy(mean: seeds.Mean) -> str:
    """A mean with its standard deviation, where there is one."""
    if not math.isfinite(mean.value):
        return "--"
    sd = "" if math.isnan(mean.sd) else rf" $\pm$ {100 * mean.sd:.1f}"
    return rf"{100 * mean.value:.1f}{sd}\,\%"
