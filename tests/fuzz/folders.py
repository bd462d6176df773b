"""Valid workdirs as dicts of files, of which an input replaces one."""

import functools
import io
import json
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from configs import pate as pate_config
from configs import study as study_config
from dpfinjax import experiment, privacy, workdir
from dpfinjax.attacks.report import ATTACKS, Recognition
from dpfinjax.data.patterns import PATTERNS
from dpfinjax.pate import plan, students
from dpfinjax.results import Row
from launch import study
from tests.fuzz import launchers

Files = dict[str, bytes]
_ASKED = 40


def replaced(files: Files, data: bytes, folder: Path) -> None:
    """Writes files into a folder, one of them with the content that an input has for it."""
    name, _, content = data.partition(b"\n")
    names = sorted(files)
    chosen = name.decode("utf-8", "replace")
    if chosen not in files:
        chosen = names[zlib.crc32(name) % len(names)]
    for path, own in (files | {chosen: content}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(own)


def inputs(files: Files) -> list[bytes]:
    """Each file as the input that leaves it as it is."""
    return [name.encode() + b"\n" + content for name, content in files.items()]


def _json(content) -> bytes:
    return json.dumps(content, indent=2, allow_nan=False).encode()


def _csv(rows) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        workdir.write_csv(path, rows)
        return path.read_bytes()


def _npy(array) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def _png() -> bytes:
    """One white pixel."""

    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0\xff")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _config_file(config: ConfigDict, bound) -> bytes:
    about = {"python": "3.11", "versions": {"jax": "0.10"}, "command": ["x"], "devices": ["cpu:x"]}
    return _json({"config": workdir.as_json(config), "bound": bound} | about)


def _row(name: str, config: ConfigDict, statement) -> dict:
    numbers = {f"{split}_accuracy": 0.5 for split in ("train", "validation", "test")}
    return Row(
        model=name,
        epsilon=statement.epsilon,
        delta=statement.delta,
        seed=config.seed,
        noise_multiplier=statement.noise_multiplier,
        clip_norm=statement.clip_norm,
        seconds=1.0,
        steps=10,
        batch_size=100,
        **numbers,
    )._asdict()


def _trained(config: ConfigDict) -> Files:
    """The workdir of `launch.dpsgd`, without checkpoints."""
    runs = experiment.runs_of(config, launchers.facts())
    claims = {run.name: run.plan.statement.to_json() for run in runs}
    bound = experiment.bound(runs, launchers.facts())
    counts = [{"pattern": p, "examples": 10, "right": 7, "accuracy": 0.7} for p in PATTERNS]
    return {
        "config.json": _config_file(config, bound),
        "results.csv": _csv([_row(run.cell, run.config, run.plan.statement) for run in runs]),
        "privacy.json": _json(claims if len(runs) > 1 else next(iter(claims.values()))),
        "finished.json": _json({"seconds": 1.5}),
    } | {f"{run.name}/accuracy_per_pattern.csv": _csv(counts) for run in runs}


def _pate(config: ConfigDict) -> Files:
    """The workdir of `launch.pate`, without checkpoints."""
    members = students.students_of(config, launchers.facts())
    stated = [
        plan.Statement(4.0, 3.0, False, each.plan, "one window", ("The seed is secret.",))
        for each in members
    ]
    claims = {each.name: one.to_json() for each, one in zip(members, stated, strict=True)}
    rows = [
        {"model": each.name, "epsilon": 4.0, "validation_accuracy": 0.5, "test_accuracy": 0.5}
        for each in members
    ]
    return {
        "config.json": _config_file(config, students.bound(members)),
        "results.csv": _csv(rows),
        "privacy.json": _json(claims if len(members) > 1 else next(iter(claims.values()))),
        "finished.json": _json({"seconds": 1.5}),
    }


@functools.cache
def targets() -> Files:
    """A folder of two workdirs that `launch.attack` may be given."""
    config = study.config_of(_study_config(), "dpsgd")
    students_config = pate_config.get_config("quick")
    students_config.cells = ({"target_epsilon": 4.0}, {"target_epsilon": 8.0})
    files = {f"dpsgd/{name}": content for name, content in _trained(config).items()}
    return files | {f"pate/{name}": content for name, content in _pate(students_config).items()}


def _study_config() -> ConfigDict:
    config = study_config.get_config("quick")
    config.seeds, config.parts = 1, ("dpsgd", "pate", "attack", "audit")
    config.attacked = ("dpsgd",)
    config.dpsgd.accountant = "rdp"
    config.pate.target_epsilon = 8.0
    config.dpsgd.cells = ({"target_epsilon": 4.0}, {"target_epsilon": 8.0})
    return config


def _attacked(name: str) -> Files:
    """What `launch.attack` writes about a model."""
    rng = np.random.default_rng(0)
    member, label = np.arange(_ASKED) % 2 == 0, (np.arange(_ASKED) % 8).astype(np.int32)
    scores = {f"scores_{attack}": rng.normal(size=_ASKED) for attack in ATTACKS}
    arrays = scores | {"is_member": member, "labels": label}
    arrays |= {"member_probs": rng.random(20), "nonmember_probs": rng.random(20)}
    arrays |= {"shadow_models/membership": rng.random((4, _ASKED)) < 0.5}
    arrays |= {"shadow_models/logits": rng.normal(size=(4, _ASKED, 8)).astype(np.float32)}
    arrays |= {"shadow_models/grad_norm": rng.random((4, _ASKED)).astype(np.float32)}
    numbers = dict.fromkeys(Recognition._fields, 0.5) | {"model": name, "epsilon": 4.0}
    numbers |= {"delta": 1e-5, "members": 20, "nonmembers": 20, "shadow_models": 4}
    shadows = {"models": 4, "examples_least": 20, "examples_most": 20, "seconds": 1.0}
    files = {f"{path}.npy": _npy(array) for path, array in arrays.items()}
    files["recognition.json"] = _json(numbers)
    files["shadow_models/shadow_models.json"] = _json(shadows)
    return {f"{name}/{path}": content for path, content in files.items()}


def _attack() -> Files:
    """The workdir of `launch.attack`."""
    config = ConfigDict({"targets": "dpsgd", "seed": 0, "attack": {"models": 4}})
    row = {"model": "baseline", "members": 20, "nonmembers": 20, "shadow_models": 4, "auc": 0.5}
    rows = [row | {"attack": attack} for attack in ATTACKS]
    return {
        "config.json": _config_file(config, {}),
        "results.csv": _csv(rows),
        "finished.json": _json({"seconds": 1.5}),
        **_attacked("baseline"),
    }


@functools.cache
def attack() -> Files:
    """The workdir of `launch.attack`, on one model."""
    return _attack()


@functools.cache
def finished_study() -> Files:
    """The workdir of `launch.study`."""
    config, facts = _study_config(), launchers.facts()
    line = {"audit": "one run", "bound": "one-run", "alarm": 0.5, "upper": 4.0, "decides": True}
    line |= {"accused": False}
    files = {"config.json": _config_file(config, {}), "data/facts.json": _json(facts._asdict())}
    files |= {f"data/plots/{name}.png": _png() for name in ("patterns", "counts")}
    parts = {"dpsgd": _trained(study.config_of(config, "dpsgd"))}
    parts |= {"pate": _pate(study.config_of(config, "pate")), "attack": _attack()}
    for step in study._audits(config, "dpsgd"):
        name = step.name.rpartition("/")[2]
        parts[step.name] = {
            "config.json": _config_file(step.config, {}),
            "audit.json": _json({name: [line]}),
            "finished.json": _json({"seconds": 1.5}),
        }
    for part, content in parts.items():
        files |= {f"{part}/{path}": own for path, own in content.items()}
    return files


METRICS = b"".join(
    json.dumps({"step": step, "split": "train", "values": {"loss": 0.5, "seconds": 1.5}}).encode()
    + b"\n"
    for step in (10, 20, 30)
)


def statement() -> privacy.Statement:
    """The claim of a training."""
    config = study.config_of(_study_config(), "dpsgd")
    return experiment.runs_of(config, launchers.facts())[0].plan.statement
