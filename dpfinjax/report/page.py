"""The page of a study: one HTML file that needs nothing but itself."""

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from plotly import offline

from dpfinjax import workdir
from dpfinjax.report import (
    audits,
    frontier,
    palette,
    recognition,
    recommendation,
    roc,
    seeds,
    tables,
    wording,
)
from dpfinjax.report.drawing import Chart
from dpfinjax.report.recommendation import Recommendation
from dpfinjax.report.record import FAMILIES, Model, Study

_TUNING = (
    "Each epsilon below is that of one training. What it cost to choose the settings is counted "
    "where that is said, and else it is not."
)


def write_html(path: str | Path, study: Study) -> None:
    """Writes the report as one page that asks no network for anything.

    It is readable printed and without scripts: every chart has a static form. Its content security
    policy lets a browser run its own two scripts and load nothing. The same study gives the same
    bytes, with the same versions of Matplotlib and Plotly.

    Args:
      path: where the page goes, replaced as a whole.
      study: everything that was found.
    """
    content = _page(study).encode("utf-8", errors="replace")
    with workdir.replacing(path) as temporary:
        temporary.write_bytes(content)


def _page(study: Study) -> str:
    """The whole page."""
    recommended = recommendation.recommend(study)
    main_chart = frontier.chart(study, recommended.model)
    drawn = (audits.chart(study), roc.chart(study), recognition.chart(study))
    others = [chart for chart in drawn if chart is not None]
    found = _sections(study, recommended, {chart.key: chart for chart in others})
    sections = [(key, title, content) for key, title, content in found if content]
    scripts = [_script(offline.get_plotlyjs()), _script(_asset("page.js"))]
    colors = palette.COLORS | palette.of_models(study.models)
    links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, title, _ in sections)
    body = "".join(
        f'<section id="{key}" aria-labelledby="{key}-title">\n<h2 id="{key}-title">{title}</h2>\n'
        f"{content}</section>\n"
        for key, title, content in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Privacy report: {html.escape(study.source)}</title>
<style>
{palette.css(colors)}{_asset("page.css")}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the recommendation</a>
<header>
<p class="brand">dpfinjax <span>privacy report</span></p>
<p class="source">{html.escape(study.source)}</p>
<p class="source">protected unit: {html.escape(study.unit)}</p>
</header>
<main id="main" tabindex="-1">
{_first_screen(study, recommended, main_chart)}
<nav aria-label="Sections"><ul>{links}</ul></nav>
{body}</main>
<script type="application/json" id="charts">{_json(_specs([main_chart, *others], colors))}</script>
<script>{scripts[0]}</script>
<script>{scripts[1]}</script>
</body>
</html>
"""


def _first_screen(study: Study, recommended: Recommendation, chart: Chart) -> str:
    """The recommendation beside the frontier, and what has to be known at once."""
    remarks = "".join(f"<li>{html.escape(remark)}</li>" for remark in study.remarks)
    known = f'<h2>To keep in mind</h2>\n<ul class="remarks">{remarks}</ul>\n' if remarks else ""
    return f"""<div class="first">
<section aria-labelledby="recommendation-title">
<h1 id="recommendation-title">{_headline(study, recommended.model)}</h1>
<p class="lead">{html.escape(recommended.sentence)}</p>
{_key_figures(study, recommended.model)}
{_sharing(recommended.model)}
{known}</section>
<section aria-labelledby="frontier-title">
<h2 id="frontier-title">Accuracy against epsilon</h2>
{_figure(chart)}
{_toggles(study)}
</section>
</div>"""


def _headline(study: Study, model: Model | None) -> str:
    """The recommendation in a few words."""
    if model is None:
        return "No private model can be recommended"
    label = html.escape(wording.labels(study.models)[model.name])
    joined = label.replace("-", "\u2060-\u2060")  # no line ends within DP-SGD
    return f"Share {joined}"


def _sharing(model: Model | None) -> str:
    """What may be shared of a study, and what not."""
    place = "the release/ folder of one private model"
    if model is not None and model.release:
        several = len(model.test) > 1
        place = f"the folder {model.release}" + (" (the first of its seeds)" if several else "")
    words = (
        f"What may be shared is {place}, and nothing else: it has the parameters, the privacy "
        "statement and a model card. Checkpoints, scores, memberships, norms of examples, "
        "pictures, accuracies, data-dependent epsilons, seeds and this page are not covered by any "
        "epsilon and stay here; sharing several models adds up."
    )
    return f'<p class="sharing">{html.escape(words)}</p>'


def _key_figures(study: Study, model: Model | None) -> str:
    """The recommended model's numbers, large."""
    if model is None:
        return ""
    test, bound = seeds.mean(model.test), recommendation.audited(model)
    attack = recommendation.strongest(model.attacks)
    figures = [
        ("epsilon, stated", wording.epsilon(model.epsilon)),
        ("mean test accuracy", wording.percent(test.value)),
        ("AUC of the strongest attack", wording.number(round(attack.auc, 3)) if attack else ""),
        ("epsilon proven by audits, at least", "" if bound is None else wording.lower_bound(bound)),
    ]
    shown = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures if value
    )
    return f'<dl class="figures">{shown}</dl>'


def _toggles(study: Study) -> str:
    """A checkbox for every model, which the page's script shows and heeds."""
    named = wording.labels(study.models)
    groups = []
    for family in FAMILIES:
        boxes = "".join(
            f'<label><input type="checkbox" checked value="{html.escape(model.name)}"> '
            f"<span>{html.escape(named[model.name])}</span></label>"
            for model in study.models
            if model.family == family
        )
        if boxes:
            name = wording.FAMILY_NAMES[family]
            groups.append(f"<fieldset><legend>{name}</legend>{boxes}</fieldset>")
    return (
        '<details class="toggles" hidden><summary>Models shown in the charts</summary>\n'
        '<p><button type="button" data-all="true">Show all</button> '
        '<button type="button" data-all="false">Hide all</button></p>\n'
        f"{''.join(groups)}</details>"
    )


def _sections(
    study: Study, recommended: Recommendation, charts: Mapping[str, Chart]
) -> Iterator[tuple[str, str, str]]:
    """Key, title and content of everything below the first screen."""
    yield "all-models", "Results", tables.results(study, recommended.model)
    audit = charts.get("audits")
    yield "audited", "What audits leave of epsilon", _optional(audit) + tables.audited(study)
    attacked = charts.get("roc")
    nothing = "<p>No model was attacked.</p>\n"
    choice = _attack_choice(study) if attacked else ""
    content = choice + _optional(attacked) + tables.attacks(study)
    yield "attacks", "Membership attacks", content or nothing
    recognised = charts.get("recognition")
    content = _optional(recognised) + tables.recognised(study)
    yield "recognised", "Recognition of training windows", content
    patterns = tables.per_pattern(study) + tables.exposure(study)
    yield "patterns", "Patterns: accuracy and exposure", patterns
    yield "data", "The data", _data(study)
    yield "statements", "Privacy statements", _statements(study)
    yield "settings", "Settings", _settings(study)
    yield "reproduce", "How to reproduce", _reproduction(study)


def _optional(chart: Chart | None) -> str:
    """A chart's figure, or nothing."""
    return _figure(chart) if chart else ""


def _figure(chart: Chart) -> str:
    """A chart in both forms; the static one is shown in print and without scripts."""
    finding = html.escape(chart.finding)
    return (
        f'<figure class="chart" data-chart="{chart.key}">\n<div class="static">{chart.svg}</div>\n'
        f'<div class="live" role="img" aria-label="{finding}"></div>\n'
        f"<figcaption>{html.escape(chart.note)}</figcaption>\n</figure>\n"
    )


def _attack_choice(study: Study) -> str:
    """Which attack's curves are shown."""
    options = "".join(
        f'<option value="{html.escape(name)}">{html.escape(name)}</option>'
        for name in roc.attack_names(study)
    )
    return (
        '<p class="choice" hidden><label>Attack <select id="attack">'
        f'<option value="">the strongest on each model</option>{options}</select></label> '
        '<label><input type="checkbox" id="bounds"> <span>bounds of the privacy statements</span>'
        "</label></p>\n"
    )


def _data(study: Study) -> str:
    """Counts and example pictures."""
    figures = "".join(
        f'<figure><img alt="{html.escape(caption)}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>\n"
        for caption, png in study.pictures
    )
    pictures = f'<div class="pictures">\n{figures}</div>\n' if figures else ""
    source, unit = html.escape(study.source), html.escape(study.unit)
    facts = f"<p>Bars: {source}. The unit that is protected: {unit}.</p>\n"
    return facts + tables.counts(study) + pictures


def _statements(study: Study) -> str:
    """The privacy statement of each model; assumptions of all private ones are told once."""
    private = [model.assumptions for model in study.models if math.isfinite(model.epsilon)]
    shared = [a for a in private[0] if all(a in own for own in private)] if private else []
    lead = "<h3>Assumptions of every private model</h3>\n" + _list(shared) if shared else ""
    tuning = f"<p>{_TUNING}</p>\n" if private else ""
    each = "".join(_statement(study, model, shared) for model in study.models)
    return tuning + lead + each


def _statement(study: Study, model: Model, shared: Sequence[str]) -> str:
    """One model's statement."""
    own = [a for a in model.assumptions if a not in shared or math.isinf(model.epsilon)]
    said = [model.sentence]
    if model.tuned_epsilon is not None:
        tuned = wording.epsilon(model.tuned_epsilon)
        said.append(f"Together with the choice of its settings it spends epsilon {tuned}.")
    if model.published_epsilon is not None:
        published = wording.epsilon(model.published_epsilon)
        said.append(f"The published formula gives {published}, which is not this training's.")
    label = html.escape(wording.labels(study.models)[model.name])
    more = f"<p>Its own assumptions:</p>\n{_list(own)}" if own else ""
    text = html.escape(" ".join(said))
    return f'<article class="statement">\n<h3>{label}</h3>\n<p>{text}</p>\n{more}</article>\n'


def _list(sentences: Sequence[str]) -> str:
    """Sentences as a list."""
    return "<ul>" + "".join(f"<li>{html.escape(s)}</li>" for s in sentences) + "</ul>\n"


def _settings(study: Study) -> str:
    """Every setting: those that all models share once, then the rest of each model."""
    named = wording.labels(study.models)
    settings = {m.name: tables.flat(m.settings) for m in study.models if m.settings}
    texts = {name: {k: tables.shown(v) for k, v in own.items()} for name, own in settings.items()}
    first = next(iter(texts.values()), {})
    shared = {k: v for k, v in first.items() if all(own.get(k) == v for own in texts.values())}
    if len(texts) < 2:
        shared = {}
    blocks = [("shared", "Settings of all models", shared)] if shared else []
    for place, (name, own) in enumerate(texts.items()):
        rest = {k: v for k, v in own.items() if k not in shared}
        blocks.append((f"own-{place}", named[name], rest))
    header = ("setting", "value")
    return "".join(
        f"<details><summary>{html.escape(title)}</summary>\n"
        f"{tables.pairs(key, f'{title}: settings', header, values)}</details>\n"
        for key, title, values in blocks
    )


def _reproduction(study: Study) -> str:
    """Commands and versions."""
    named = wording.labels(study.models)
    single = "".join(
        f"<dt>{html.escape(named[model.name])}</dt>\n<dd>{_code(model.command)}</dd>\n"
        for model in study.models
        if model.command
    )
    each = f"<h3>One model alone</h3>\n<dl>\n{single}</dl>\n" if single else ""
    versions = tables.pairs("versions", "Versions", ("package", "version"), study.versions)
    return f"<h3>This report</h3>\n{_code(study.command)}\n{each}" + (
        f"<h3>Versions</h3>\n{versions}" if versions else ""
    )


def _code(command: str) -> str:
    """A command, as it is typed."""
    return f'<pre tabindex="0"><code>{html.escape(command)}</code></pre>'


def _specs(charts: Sequence[Chart], colors: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """What the page's script draws: charts, and colours, light and dark."""
    sides = {
        side: {name: pair[place] for name, pair in colors.items()}
        for place, side in enumerate(("light", "dark"))
    }
    return {"charts": {chart.key: chart.spec for chart in charts}, "colors": sides}


def _json(value: Any) -> str:
    """JSON that no HTML parser takes for the end of its element; nan and inf become null."""
    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _finite(value: Any) -> Any:
    """A copy without numbers that JSON does not know."""
    if isinstance(value, Mapping):
        return {key: _finite(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _asset(name: str) -> str:
    """A file beside this one."""
    return resources.files("dpfinjax.report").joinpath(name).read_text("utf-8")


def _script(text: str) -> str:
    """A script as the parser of a page reads it, which the policy's digest is about."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _policy(scripts: Sequence[str]) -> str:
    """A content security policy: these scripts, inline styles and pictures, and nothing else."""
    digests = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in scripts
    )
    return (
        f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
