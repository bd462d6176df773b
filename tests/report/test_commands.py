"""A config becomes the command that gives it, and the shortest one."""

import shlex

from ml_collections import ConfigDict, config_dict

from dpfinjax.report import commands

BASE = {"epochs": 10.0, "data": {"source": "sim", "fractions": (0.7, 0.3)}, "private": True}


def words(config, variants):
    return shlex.split(commands.command("job", variants, ConfigDict(config), "logs/a b"))


def test_only_what_differs_is_given():
    assert words(BASE, {"": ConfigDict(BASE)}) == [
        "python",
        "-m",
        "launch.job",
        "--config=configs/job.py",
        "--workdir=logs/a b",
    ]
    changed = BASE | {"data": {"source": "my bars.csv", "fractions": (0.5, 0.5)}, "private": False}
    assert words(changed, {"": ConfigDict(BASE)})[4:-1] == [
        "--config.data.source=my bars.csv",
        "--config.data.fractions=(0.5, 0.5)",
        "--config.private=False",
    ]


def test_the_variant_with_the_fewest_flags_is_taken():
    variants = {"": ConfigDict(BASE), "long": ConfigDict(BASE | {"epochs": 99.0})}
    assert words(BASE | {"epochs": 99.0}, variants)[3:-1] == ["--config=configs/job.py:long"]


def test_none_and_fields_that_the_launcher_does_not_have_are_not_given():
    base = ConfigDict(BASE)
    base.steps = config_dict.placeholder(int)
    config = BASE | {"steps": 5, "epochs": None, "cells": ()}
    assert words(config, {"": base})[4:-1] == ["--config.steps=5"]
