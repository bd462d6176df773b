"""CSV and LaTeX: every number, and nothing that a program takes for a command."""

import csv
import math

import pytest

from dpfinjax.errors import InputError
from dpfinjax.report import exports, write_csv, write_tex
from tests.report import made


def rows(path):
    """The rows of a CSV."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_a_model_with_all_digits(tmp_path):
    study = made.whole()
    write_csv(tmp_path / "results.csv", study)
    found = rows(tmp_path / "results.csv")
    assert [row["model"] for row in found] == [model.name for model in study.models]
    private = found[1]
    model = study.models[1]
    assert float(private["test_accuracy"]) == pytest.approx(sum(model.test) / 5, abs=1e-15)
    assert float(private["auc"]) == model.attacks[0].auc
    assert float(private["audit_lower_bound"]) == model.audits[0].lower
    assert private["seeds"] == "5"
    assert float(found[0]["epsilon"]) == math.inf
    assert [row["model"] for row in found if row["recommended"] == "True"] == ["dpsgd-4"]


def test_what_is_unknown_is_empty_or_nan(tmp_path):
    bare = made.model("bare", seeds=1, attacks=(), audits=(), members=(), nonmembers=())
    write_csv(tmp_path / "results.csv", made.study(bare))
    (row,) = rows(tmp_path / "results.csv")
    for column in ("attack", "auc", "tpr_0_1pct", "audit", "recognition_rate", "tuned_epsilon"):
        assert row[column] == ""
    assert math.isnan(float(row["test_accuracy_sd"]))


def test_the_table_has_a_line_a_model_of_as_many_cells(tmp_path):
    write_tex(tmp_path / "results.tex", made.whole())
    text = (tmp_path / "results.tex").read_text()
    body = text.split(r"\midrule", 1)[1].split(r"\bottomrule")[0]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(lines) == len(made.whole().models)
    assert all(line.count(" & ") == 8 for line in lines)
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    for rule in (r"\toprule", r"\bottomrule", r"\usepackage{booktabs}"):
        assert rule in text


def test_no_string_from_outside_is_a_command_of_latex(tmp_path):
    name = 'a_b & 50% $x$ #1 {y} \\input{secrets} ~^<>|"\n% off'
    study = made.study(made.model("m", label=name), source=name, unit=name)
    write_tex(tmp_path / "results.tex", study)
    text = (tmp_path / "results.tex").read_text()
    assert r"\input" not in text
    assert r"a\_b \& 50\% \$x\$ \#1 \{y\} \textbackslash{}input\{secrets\} " in text
    body = text.split("\n", 1)[1]
    assert not any(
        line[place] == "%" and line[place - 1 : place] != "\\"
        for line in body.splitlines()
        for place in range(len(line))
    )


def test_dashes_and_spaces_keep_their_meaning():
    assert exports.escaped("a--b") == "a-{-}b"
    assert exports.escaped("5\u00a0%") == r"5~\%"


@pytest.mark.parametrize("write", [write_csv, write_tex])
def test_a_study_without_models_is_refused_and_nothing_is_written(write, tmp_path):
    with pytest.raises(InputError, match=r"study\.models is empty"):
        write(tmp_path / "results", made.study())
    assert list(tmp_path.iterdir()) == []
