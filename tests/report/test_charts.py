"""Charts: what is drawn is what was found, in both forms."""

import math

import numpy as np
import pytest
from plotly import graph_objects

from dpfinjax.report import Audit, audits, drawing, frontier, palette, recognition, roc
from tests.report import made

STUDY = made.whole()
CHARTS = {
    "frontier": frontier.chart(STUDY, STUDY.models[4]),
    "audits": audits.chart(STUDY),
    "roc": roc.chart(STUDY),
    "recognition": recognition.chart(STUDY),
}
COLORS = palette.COLORS | palette.of_models(STUDY.models)


def traces(chart, **meta):
    """The interactive traces with these meta data."""
    return [t for t in chart.spec["data"] if all(t["meta"].get(k) == v for k, v in meta.items())]


@pytest.mark.parametrize("chart", CHARTS.values(), ids=list(CHARTS))
def test_plotly_knows_every_property(chart):
    spec = palette.resolved(chart.spec, COLORS)
    graph_objects.Figure({"data": spec["data"], "layout": spec["layout"]})  # raises if it does not


@pytest.mark.parametrize("chart", CHARTS.values(), ids=list(CHARTS))
def test_the_static_form_takes_its_colours_from_the_page(chart):
    assert "#fe0" not in chart.svg
    assert "var(--" in chart.svg
    assert chart.finding.split(":")[0] in chart.svg


@pytest.mark.parametrize("chart", CHARTS.values(), ids=list(CHARTS))
def test_a_trace_belongs_to_known_models(chart):
    names = {model.name for model in STUDY.models}
    assert any("model" in trace["meta"] for trace in chart.spec["data"])
    for trace in chart.spec["data"]:
        assert {trace["meta"]["model"]} <= names if "model" in trace["meta"] else True
        assert set(trace["meta"].get("models", ())) <= names


def test_the_frontier_shows_means_and_intervals_of_the_test_split():
    for model in STUDY.models[1:]:
        (mark,) = traces(CHARTS["frontier"], model=model.name)
        assert mark["x"] == [model.epsilon]
        assert mark["y"] == pytest.approx([np.mean(model.test)])
        if len(model.test) > 1:
            half = 2.776445 * np.std(model.test, ddof=1) / math.sqrt(len(model.test))
            assert mark["error_y"]["array"] == pytest.approx([half], rel=1e-5)
        else:
            assert not mark["error_y"]["visible"]


def test_the_frontier_shades_what_the_paper_published():
    shape = CHARTS["frontier"].spec["layout"]["shapes"][0]
    assert (shape["x0"], shape["x1"]) == (5.41, 12.62)
    assert "5.41 to 12.62" in CHARTS["frontier"].svg
    assert "5.41 to 12.62" in CHARTS["frontier"].spec["layout"]["annotations"][0]["text"]


def test_everything_drawn_lies_within_the_frontiers_axes():
    layout = CHARTS["frontier"].spec["layout"]
    x, y = 10 ** np.array(layout["xaxis"]["range"]), layout["yaxis"]["range"]
    for model in STUDY.models:
        (*_, mark) = traces(CHARTS["frontier"], model=model.name)
        assert all(x[0] <= value <= x[1] * (1 + 1e-9) for value in mark["x"])
        assert all(y[0] <= value <= y[1] for value in mark["y"])


def test_models_that_cannot_be_drawn_are_counted():
    free = made.model("free", epsilon=math.inf)
    broken = made.model("broken", test=(math.nan,))
    chart = frontier.chart(made.study(made.baseline(), free, broken, made.model("m")), None)
    assert "2 models without a finite epsilon" in chart.note
    assert not traces(chart, model="free")
    assert not traces(chart, model="broken")


def test_an_audit_bar_goes_from_the_bound_to_what_is_stated():
    model = made.model("m", audits=(Audit("a", 0.5, 0.95), Audit("b", 1.25, 0.95)))
    bar, mark = traces(audits.chart(made.study(model)), model="m")
    assert (bar["base"], bar["x"], mark["x"]) == ([1.25], [2.75], [4.0])
    assert audits.interval(model) == "1.25 to 4"


def test_a_refuted_epsilon_is_called_so():
    model = made.model("m", audits=(Audit("a", 4.5, 0.95),))
    chart = audits.chart(made.study(model))
    bar, cross = traces(chart, model="m")
    assert bar["x"] == [0.0]
    assert (cross["x"], cross["marker"]["symbol"]) == ([4.5], "x")
    assert "refuted" in chart.svg
    assert "refuted" in chart.finding


def test_each_model_has_one_strongest_curve():
    for model in STUDY.models:
        strongest = [
            t["meta"]["attack"] for t in traces(CHARTS["roc"], model=model.name, strongest=True)
        ]
        assert strongest == (["LiRA"] if model.attacks else [])


def test_curves_and_bounds_are_what_was_found():
    model = made.model("m", epsilon=1.0)
    chart = roc.chart(made.study(model))
    curve = traces(chart, model="m", attack="RMIA")[0]
    fpr, tpr = np.array(model.attacks[1].curve).T
    assert curve["x"][1:] == pytest.approx(fpr[1:])
    assert curve["y"][1:] == pytest.approx(tpr[1:])
    (bound,) = traces(chart, model="m", bound=True)
    small = bound["x"][0]
    assert bound["y"][0] == pytest.approx(math.e * small + 1e-5)


def test_means_of_violins_are_those_of_all_probabilities():
    model = STUDY.models[0]
    marks = [t for t in traces(CHARTS["recognition"], model="baseline") if t["type"] == "scatter"]
    assert [mark["x"][0] for mark in marks] == pytest.approx(
        [np.mean(model.members), np.mean(model.nonmembers)]
    )
    for mean in (np.mean(model.members), np.mean(model.nonmembers)):
        assert f"{mean:.3f}" in CHARTS["recognition"].svg


def test_probabilities_that_all_agree_can_be_drawn():
    model = made.model("m", members=(0.5,) * 20, nonmembers=(0.5, math.nan))
    chart = recognition.chart(made.study(model))
    assert "0.500" in chart.svg
    assert "nan" not in chart.svg


@pytest.mark.parametrize("chart", [audits.chart, roc.chart, recognition.chart])
def test_nothing_to_show_is_no_chart(chart):
    bare = made.model("m", attacks=(), audits=(), members=(), nonmembers=())
    assert chart(made.study(bare)) is None


def test_labels_are_neither_tags_nor_mathematics():
    label = "<b>$x$</b> $y$"
    chart = frontier.chart(made.study(made.model("m", label=label)), None)
    (mark,) = traces(chart, model="m")
    assert "&lt;b&gt;$x$" in mark["hovertext"]
    assert "<b>$x$</b>" not in mark["hovertext"]
    drawn = audits.chart(made.study(made.model("m", label=label)))
    assert "&lt;b&gt;$x$&lt;/b&gt; $y$" in drawn.svg
    assert drawing.live_text(label) == "&lt;b&gt;$x$&lt;/b&gt; $y$"
