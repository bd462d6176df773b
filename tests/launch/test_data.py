"""The data launcher: counts that add up, and pictures."""

import csv
import json

from configs import data as data_config
from dpfinjax import data
from launch import data as job


def test_counts_are_those_of_the_splits(tmp_path, cache, capsys):
    config = data_config.get_config("quick")
    config.data.update(sim_bars=120_000, cache_dir=cache)
    facts = job.build_and_draw(config, tmp_path / "run")
    splits = data.load(config)
    with open(tmp_path / "run" / "counts.csv") as file:
        rows = list(csv.DictReader(file))
    for name, examples in splits._asdict().items():
        assert sum(int(row[name]) for row in rows) == len(examples.label)
        assert int(rows[3][name]) == (examples.label == 3).sum()
    assert json.loads((tmp_path / "run" / "facts.json").read_text())["windows"] == facts.windows
    assert {f.name for f in (tmp_path / "run" / "plots").iterdir()} == {
        "counts.png",
        "patterns.png",
    }
    assert "evening star" in capsys.readouterr().out
