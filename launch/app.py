"""What every launcher does at its edges: flags, one-sentence errors, exit codes."""

import contextlib
import os
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from dpfinjax import hosts, sweeps, workdir
from dpfinjax.errors import InputError, refused_by_system

_FLAGS = (
    "config",
    "workdir",
    "seeds",
    "sweep",
    "coordinator",
    "num_processes",
    "process_id",
    "devices_per_model",
)


def run(
    job: Callable[[ConfigDict, str], object],
    name: str,
    shorthands: Mapping[str, type] = MappingProxyType({}),
) -> None:
    """Runs a launcher's job with its config and its workdir, then ends the program.

    Exit codes: 0 when the job is done, 2 after a user's mistake, which is told in one sentence, 130
    when it was interrupted.

    Args:
      job: a function of a config and a folder's path.
      name: the launcher's name; the config defaults to `configs/<name>.py`, the workdir to
        `logs/<name>`.
      shorthands: the type of each field of the config that has a flag of its own too: --bars for
        --config.bars.
    """
    logging.set_verbosity(logging.WARNING)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(workdir.cache_folder() / "jax"))
    chosen = "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen and "JAX_NUM_CPU_DEVICES" not in os.environ:
        # Models of a sweep are divided over devices; a device a core is how a CPU trains them fast.
        jax.config.update("jax_num_cpu_devices", _cores())

    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _unraisable

    def parse(argv: Sequence[str]) -> list[str]:
        with _mistakes_told():
            with _config_told():
                config = _define_flags(name, shorthands)
                left = flags.FLAGS(list(argv))
            if len(left) > 1:
                raise InputError(f"{left[1]!r} is no flag; settings are given as --name=value.")
            if not isinstance(config.value, ConfigDict):
                raise InputError("--config does not name a config file.")
            sweeps.settle_pairs(
                config.value, config_flags.get_override_values(flags.FLAGS["config"])
            )
            for field in shorthands:
                if flags.FLAGS[field].present:
                    config.value[field] = flags.FLAGS[field].value
            _repeat_and_sweep(config.value, config_flags.get_config_filename(flags.FLAGS["config"]))
            return left

    def main(argv: Sequence[str]) -> None:
        del argv
        with _mistakes_told():
            _run_or_follow(job)

    app.run(main, flags_parser=parse)


def _run_or_follow(job: Callable[[ConfigDict, str], object]) -> None:
    """Runs the job in the first of several processes, or the only one; the others help it."""
    flag = flags.FLAGS
    with hosts.joined(flag.coordinator, flag.num_processes, flag.process_id) as leads:
        if leads:
            hosts.set_devices_per_model(flag.devices_per_model)
            job(flag.config, flag.workdir)
        else:
            hosts.follow()


def _unraisable(found: "sys.UnraisableHookArgs") -> None:
    """Tells what could not be raised, but for complaints of a checkpoint that a disk refused.

    TensorStore's threads go on after Orbax has raised the error, and miss the event loop.
    """
    if str(found.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(found)


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _define_flags(name: str, shorthands: Mapping[str, type]) -> flags.FlagHolder:
    """Defines the launchers' flags; the config's already reads its file and overrides here."""
    config = config_flags.DEFINE_config_file(
        "config", f"configs/{name}.py", "Config file, with :variant where it has some."
    )
    flags.DEFINE_string("workdir", f"logs/{name}", "Folder of all that is written.")
    flags.DEFINE_integer("seeds", None, "Train every model with so many seeds.", lower_bound=1)
    flags.DEFINE_bool("sweep", False, "Train the cells that the config file's sweep() adds.")
    flags.DEFINE_string("coordinator", None, "host:port of process 0, or auto, of several.")
    flags.DEFINE_integer("num_processes", None, "How many processes run together.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", lower_bound=0)
    flags.DEFINE_integer("devices_per_model", 1, "Devices that share each batch.", lower_bound=1)
    for field, kind in shorthands.items():
        define = flags.DEFINE_integer if kind is int else flags.DEFINE_string
        define(field, None, f"The same as --config.{field}.")
    # --help lists the flags of the module that was run
    for flag in (*_FLAGS, *shorthands):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[flag])
    return config


def _repeat_and_sweep(config: ConfigDict, path: str) -> None:
    """Puts --seeds and --sweep into the config, which so stays the whole account of a run."""
    for flag, field in (("seeds", "seeds"), ("sweep", "cells")):
        if flags.FLAGS[flag].value and field not in config:
            raise InputError(f"--{flag} does not apply: the config has no field {field!r}.")
    if flags.FLAGS.seeds:
        config.seeds = flags.FLAGS.seeds
    if flags.FLAGS.sweep:
        path = path.partition(":")[0]
        cells: list[dict[str, object]] = []
        with _config_told():
            sweep = runpy.run_path(path).get("sweep")
            if sweep is None:
                raise InputError(f"--sweep does not apply: {path} has no function sweep(add).")
            sweep(lambda **cell: cells.append(cell))
        config.cells = tuple(cells)


@contextlib.contextmanager
def _config_told() -> Iterator[None]:
    """Says in a sentence what a config file or a value for one of its fields makes Python raise."""
    try:
        yield
    except (InputError, flags.Error):
        raise
    except (AttributeError, KeyError) as error:
        field = str(error).strip("'\"")
        raise InputError(f"The config has no field {field!r}; its file lists them.") from error
    except Exception as error:  # a config file is a program, and may raise anything
        told = f"{type(error).__name__}: {error}".rstrip(". ")
        raise InputError(
            f"--config or a --config.<field> of these flags cannot be used ({told}); --help lists "
            "the flags."
        ) from error


@contextlib.contextmanager
def _mistakes_told() -> Iterator[None]:
    """Turns a user's mistake into one sentence and exit code 2."""
    try:
        yield
    except InputError as error:
        sentence = str(error)
    except flags.Error as error:
        # A config file's own exception comes as a traceback, whose last line is its sentence.
        last = str(error).strip().splitlines()[-1].rstrip(". ")
        sentence = f"{last.removeprefix('dpfinjax.errors.InputError: ')}; --help lists the flags."
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        told = refused_by_system(error)
        if told is None:
            raise
        sentence = told
    else:
        return
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
    sys.exit(2)
