"""A study as it could have come out, made up from a few numbers."""

import math
import struct
import zlib

import numpy as np

from dpfinjax.data.patterns import PATTERNS
from dpfinjax.report import Attack, Audit, Model, Study

SETTINGS = {
    "data": {"source": "bars.csv", "split": "hash"},
    "optimizer": "sgd",
    "batch_size": 1024,
    "learning_rate": 4.0,
    "seed": 0,
}


def attack(name, strength, width=0.02):
    """An attack whose curve is tpr = fpr^(1 - strength)."""
    fpr = np.concatenate([[0], np.geomspace(1e-4, 1, 60)])
    tpr = np.where(fpr > 0, fpr ** (1 - strength), 0)
    auc = 1 / (2 - strength)
    found = float(0.001 ** (1 - strength))
    return Attack(
        name=name,
        auc=auc,
        auc_interval=(auc - width, auc + width),
        tpr=found,
        tpr_interval=(found / 3, 2 * found),
        curve=tuple(zip(fpr.tolist(), tpr.tolist(), strict=True)),
    )


def model(name, family="dpsgd", epsilon=4.0, accuracy=0.9, seeds=5, strength=0.0, **changes):
    """A model, attacked and audited; its accuracies scatter by half a point."""
    scatter = np.random.default_rng(len(name)).normal(0, 0.004, (2, seeds))
    rng = np.random.default_rng(7)
    private = math.isfinite(epsilon)
    fields = {
        "name": name,
        "label": name,
        "family": family,
        "epsilon": epsilon,
        "delta": 1e-5 if private else 0.0,
        "tuned_epsilon": None,
        "published_epsilon": None,
        "noise_multiplier": 2.0 if private else None,
        "validation": tuple((accuracy + scatter[0] - scatter[0].mean()).tolist()),
        "test": tuple((accuracy - 0.003 + scatter[1] - scatter[1].mean()).tolist()),
        "per_pattern": dict(zip(PATTERNS, (accuracy - 0.02 * np.arange(8)).tolist(), strict=True)),
        "sentence": f"epsilon = {epsilon} at delta = 1e-05: any one window hides."
        if private
        else "This model is not differentially private.",
        "assumptions": ("Batches are Poisson samples.", "Bars are public knowledge to nobody.")
        if private
        else (),
        "settings": {**SETTINGS, "target_epsilon": epsilon if private else None},
        "command": f"python -m launch.dpsgd --config=configs/dpsgd.py --workdir=logs/{name}",
        "attacks": (
            attack("LiRA", strength),
            attack("RMIA", 0.9 * strength),
            attack("shadow models", 0.5 * strength),
        ),
        "audits": (Audit("one run, canaries", 0.1 * min(epsilon, 10), 0.95),),
        "members": tuple(rng.beta(6 + 20 * strength, 6, 700).tolist()),
        "nonmembers": tuple(rng.beta(6, 6, 500).tolist()),
        "exposure": dict(
            zip(PATTERNS, (0.05 + strength * np.arange(8) / 12).tolist(), strict=True)
        ),
    }
    return Model(**{**fields, **changes})


def baseline(accuracy=0.94, **changes):
    """A model without privacy, which leaks."""
    changes = {"label": "non-private", "strength": 0.35, **changes}
    return model("baseline", "baseline", math.inf, accuracy, **changes)


def study(*models, **changes):
    """A study of these models."""
    counts = {
        split: {pattern: size * (8 + place) for place, pattern in enumerate(PATTERNS)}
        for split, size in (("train", 100), ("validation", 12), ("test", 12), ("public", 20))
    }
    fields = {
        "source": "ethusd_1m.csv.gz",
        "unit": "one window of ten bars that shares no bar with another",
        "counts": counts,
        "pictures": (("The first window of each pattern and its image", png()),),
        "models": models,
        "tolerance": 0.03,
        "command": "python -m launch.study --config=configs/study.py",
        "versions": {"python": "3.11.2", "jax": "0.10.2"},
        "remarks": (),
    }
    return Study(**{**fields, **changes})


def whole():
    """A study with every kind of model."""
    accuracies = {0.5: 0.80, 1.0: 0.87, 2.0: 0.9, 4.0: 0.92, 8.0: 0.93}
    dpsgd = [
        model(
            f"dpsgd-{e:g}", label=f"DP-SGD, epsilon {e:g}", epsilon=e, accuracy=a, strength=e / 200
        )
        for e, a in accuracies.items()
    ]
    pretrained = [
        model(
            f"pretrained-{e:g}",
            "pretrained",
            label=f"DP-SGD after simulated bars, epsilon {e:g}",
            epsilon=e,
            accuracy=0.93,
            attacks=(),
            audits=(),
            members=(),
            nonmembers=(),
            exposure={},
        )
        for e in (1.0, 4.0)
    ]
    published = [
        model(
            f"published-{noise:g}",
            "published",
            label=f"published recipe, noise {noise:g}",
            epsilon=e,
            accuracy=a,
            published_epsilon=2 * e,
            seeds=1,
            attacks=(),
            audits=(),
            members=(),
            nonmembers=(),
            exposure={},
        )
        for noise, e, a in ((1.0, 4.06, 0.787), (0.7, 9.4, 0.8), (0.5, 26.0, 0.81))
    ]
    pate = [
        model(
            f"pate-{teachers}",
            "pate",
            label=f"PATE, {teachers} teachers",
            epsilon=e,
            accuracy=a,
            noise_multiplier=None,
        )
        for teachers, e, a in ((20, 11.2, 0.74), (50, 3.1, 0.66))
    ]
    remarks = ("The test split has 1,040 windows: differences below a point are noise.",)
    return study(baseline(), *dpsgd, *pretrained, *published, *pate, remarks=remarks)


def png():
    """A picture of one grey pixel, as PNG bytes."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixel = zlib.compress(b"\x00\x80")
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")
    )
