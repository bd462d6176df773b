"""Results: whole numbers in the file, readable ones on the screen."""

import csv
import math

import pytest

from dpfinjax import results

ROW = results.Row("dpsgd", 3.99871, 1e-5, 1.72412, 0.2, 0, 0.75, 0.71, 0.7123, 76.32, 56, 1024.0)


def test_the_file_has_the_promised_columns_and_every_digit(tmp_path):
    baseline = ROW._replace(model="baseline", epsilon=math.inf, clip_norm=math.inf)
    results.write(tmp_path / "results.csv", [baseline, ROW])
    with open(tmp_path / "results.csv") as file:
        rows = list(csv.DictReader(file))
    promised = "model epsilon delta noise_multiplier clip_norm seed train_accuracy "
    promised += "validation_accuracy test_accuracy seconds"
    assert list(rows[0])[:10] == promised.split()
    assert float(rows[0]["epsilon"]) == math.inf
    assert float(rows[1]["epsilon"]) == ROW.epsilon
    assert rows[1]["published_epsilon"] == ""


def test_the_table_shows_percent_and_lines_up():
    lines = results.table([ROW, ROW._replace(model="a_longer_name")]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "71.2 %" in lines[2]
    assert "3.999" in lines[2]
    assert "published" not in lines[0]


def test_the_published_formula_has_a_column_only_where_it_was_asked_for():
    table = results.table([ROW._replace(published_epsilon=6.3)])
    assert "published formula" in table
    assert "6.3" in table


def test_epsilon_without_tuning_stands_beside_epsilon_where_there_was_a_choice():
    lines = results.table([ROW._replace(epsilon_without_tuning=2.0001)]).splitlines()
    assert lines[0].split()[:4] == ["model", "epsilon", "without", "tuning"]
    assert lines[2].split()[:3] == ["dpsgd", "3.999", "2.001"]
    assert "without" not in results.table([ROW])


def test_seeds_become_mean_and_spread(tmp_path):
    rows = [ROW._replace(seed=seed, test_accuracy=0.7 + seed / 100) for seed in range(3)]
    rows.append(ROW._replace(model="other"))
    first, other = results.summarise(rows)
    assert (first.model, first.seeds) == ("dpsgd", 3)
    assert first.test_accuracy == pytest.approx((0.71, 0.01))
    assert math.isnan(other.test_accuracy[1])
    lines = results.table(rows).splitlines()
    assert len(lines) == 4
    assert "71.0 ± 1.0 %" in lines[2]
    results.write_summary(tmp_path / "summary.csv", rows)
    with open(tmp_path / "summary.csv") as file:
        written = list(csv.DictReader(file))
    assert [row["model"] for row in written] == ["dpsgd", "other"]
    assert float(written[0]["test_accuracy_mean"]) == pytest.approx(0.71)


def test_a_model_that_diverged_has_no_accuracy():
    assert "-" in results.table([ROW._replace(test_accuracy=math.nan)]).split()
