"""Several processes as one program: process 0 runs the launcher, the others lend their devices.

Process 0, the leader, alone reads, decides, prints and writes. The others follow: they hear from it
which function comes next and get its arguments, so they need no data, no workdir and no shared file
system, and nothing that they could write is ever there; only where a training reads its examples
from disk (`streaming`), each process reads its own of the prepared data. Messages go through the
key-value store of `jax.distributed`, arrays and results through collectives. In a single process
nothing here does anything.

Processes trust each other, as JAX's own runtime has it: the coordinator's port must be reachable
from within the cluster alone.
"""

import atexit
import collections
import contextlib
import functools
import importlib
import io
import math
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax._src import distributed  # its client has no public name
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from dpfinjax import last_words
from dpfinjax.errors import InputError

_PATIENCE_MS = 60_000  # of one look for a message; the next look follows
_FAREWELL_MS = 10_000
# What fields of networks name beside classes.
_OF_NETWORKS = ("float32", "bfloat16", "float16", "zeros", "ones", "promote_dtype")
_DETECTED = -1  # process numbers that jax finds out itself
_SENTENCE_BYTES = 8192  # of a mistake that processes tell each other

_Tree = TypeVar("_Tree")
_told = 0  # messages that this process has sent or read
_devices_per_model = 1


class Lost(Exception):
    """Another process is gone, so that nothing can go on."""


class Agreed(InputError):
    """A user's mistake that one process has found and all of them know of."""


def members(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    environment: Mapping[str, str],
) -> tuple[str | None, int, int] | None:
    """Says which processes there are, from flags or from what the cluster sets.

    Args:
      coordinator: "host:port" of process 0, or "auto" for what `jax.distributed.initialize` finds
        out by itself.
      num_processes: how many there are.
      process_id: which one this is, from 0.
      environment: the environment's variables.

    Returns:
      None for a plain run; else the three arguments, where None and two times -1 leave all of them
      to JAX's own detection: under `srun` and `mpirun` with several tasks, and in a TPU pod.

    Raises:
      InputError: some but not all are given, or they make no sense.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    if coordinator == "auto" and num_processes is None and process_id is None:
        return None, _DETECTED, _DETECTED
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return (None, _DETECTED, _DETECTED) if _cluster(environment) else None
    if coordinator is None or num_processes is None or process_id is None:
        raise InputError(
            f"{' and '.join(missing)} must be given too: several processes need --coordinator, "
            "--num_processes and --process_id, or none of them in a cluster that sets them."
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(
            f"--coordinator is {coordinator!r}; it must be host:port of process 0, or auto."
        )
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"--process_id is {process_id} and --num_processes {num_processes}; the processes are "
            "numbered from 0."
        )
    return (coordinator, num_processes, process_id) if num_processes > 1 else None


def _cluster(environment: Mapping[str, str]) -> bool:
    """Whether the environment says that there are several processes; asks nobody."""

    def number(name: str) -> int:
        value = environment.get(name, "")
        return int(value) if value.isdecimal() else 1

    names = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
    workers = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return max(map(number, names)) > 1 or len(workers) > 1


@contextlib.contextmanager
def joined(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Iterator[bool]:
    """Makes this process one of several, and ends them together.

    Args:
      coordinator: see `members`, as for the next two.
      num_processes: how many there are.
      process_id: which one this is.

    Yields:
      Whether this process is the leader, which runs the job; the others `follow`.

    Raises:
      InputError: the arguments make no sense, or the processes do not find each other.
    """
    found = members(coordinator, num_processes, process_id, os.environ)
    if found is None:
        yield True
        return
    with last_words.filtered_stderr():
        _initialize(*found)
        with _ended_together():
            if jax.process_index() == 0:
                _check_devices()
            yield jax.process_index() == 0


def _check_devices() -> None:
    """Raises InputError unless the processes are alike, as collectives want them."""
    counts = collections.Counter(device.process_index for device in jax.devices())
    fewest, most = min(counts.values()), max(counts.values())
    if len(counts) < jax.process_count() or fewest < most:
        raise InputError(
            f"The {jax.process_count()} processes have from {fewest} to {most} devices; each must "
            "have as many as the others."
        )


def _initialize(coordinator: str | None, num_processes: int, process_id: int) -> None:
    """Joins `jax.distributed`, with collectives for CPUs too."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if hasattr(jax.config, "jax_enable_preemption_service"):
        # It would take SIGTERM for itself, and a scheduler's first, friendly word would be lost.
        jax.config.update("jax_enable_preemption_service", False)
    try:
        if coordinator is None:
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        place = coordinator or "the address that the cluster gives"
        raise InputError(
            f"The processes did not find each other at {place} ({_first_line(error)}); "
            "--coordinator, --num_processes and --process_id must fit together in all of them."
        ) from error


@contextlib.contextmanager
def _ended_together() -> Iterator[None]:
    """Tells the followers how the leader ended; what is left alone ends without them."""
    leads = jax.process_index() == 0
    try:
        yield
    except Lost as lost:
        _exit(str(lost))
    except BaseException as error:
        if leads:
            _tell("end", *_how(error))
            _part()
        elif not isinstance(error, InputError | SystemExit):
            sys.excepthook(type(error), error, error.__traceback__)
            _exit(f"process {jax.process_index()} stopped, and the whole run with it")
        raise
    if leads:
        _tell("end", 0, "")
        _part()


def _how(error: BaseException) -> tuple[Any, str]:
    """The exit code of a leader, and a sentence for the followers where they have to say one."""
    if isinstance(error, InputError):
        return 2, str(error)
    if isinstance(error, SystemExit):
        return error.code, ""
    return 1, f"process 0 stopped ({type(error).__name__}), and the whole run with it"


def _part() -> None:
    """Leaves the others, who do so too; without them at the end, where they do not come."""
    try:
        _client().wait_at_barrier("dpfinjax/end", _FAREWELL_MS)
        jax.distributed.shutdown()
    except jax.errors.JaxRuntimeError:
        atexit.register(os._exit, 1)


def _exit(sentence: str) -> NoReturn:
    """Ends at once: an orderly end would wait for processes that are gone."""
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)


def set_devices_per_model(number: int) -> None:
    """Divides each model's batches over so many devices from now on.

    Args:
      number: must divide the number of devices of all processes together.

    Raises:
      InputError: it does not.
    """
    global _devices_per_model
    if number < 1 or (number > 1 and jax.device_count() % number):
        raise InputError(
            f"--devices_per_model is {number}; it must divide the number of devices, which is "
            f"{jax.device_count()}."
        )
    _devices_per_model = number


def devices_per_model() -> int:
    """Returns over how many devices a model's batches are divided."""
    return _devices_per_model


def call(function: Callable[..., Any], arrays: Any, *settings: Any) -> None:
    """Has the followers run `function(arrays, *settings)`, as the leader does right after.

    Args:
      function: of a module of dpfinjax; all processes run the same collectives in it.
      arrays: a pytree of arrays and keys, the leader's.
      settings: what is no array, such as a `Spec`.
    """
    _tell("call", function, jax.tree.map(_Shape.of, arrays), settings)
    content = b"".join(_words(leaf).tobytes() for leaf in jax.tree.leaves(arrays))
    _broadcast(np.frombuffer(content + bytes(-len(content) % 4), np.uint32))


def in_step(numbers: Iterable[int]) -> Iterator[int]:
    """Yields the leader's numbers in all processes, each when the leader has come to it.

    Between two numbers the leader may do anything, or break off: the followers wait, and end their
    part as soon as they hear of something else.

    Args:
      numbers: the leader's; of a follower nobody asks them.
    """
    if jax.process_index() == 0:
        for number in numbers:
            _tell("step", number)
            yield number
    else:
        while (message := _heard())[0] == "step":
            _read()
            yield message[1]


def agree(mistake: InputError | None, together: bool) -> None:
    """Raises in all processes what one of them has found wrong.

    Args:
      mistake: what this process has found, or None.
      together: whether all processes call it, each for itself, or this one alone.

    Raises:
      InputError: the mistake; of several processes the first one's, with its number.
    """
    if not together:
        if mistake is not None:
            raise mistake
        return
    with lost_told():
        found = multihost_utils.process_allgather(np.array(mistake is not None))
        if not found.any():
            return
        own = str(mistake or "").encode()[:_SENTENCE_BYTES].ljust(_SENTENCE_BYTES, b"\0")
        said = multihost_utils.process_allgather(np.frombuffer(own, np.uint8))
    first = int(np.argmax(found))
    sentence = said[first].tobytes().rstrip(b"\0").decode(errors="ignore")
    raise Agreed(f"Process {first}: {sentence}")


def follow() -> None:
    """Runs what the leader calls until it ends, and ends as it did.

    Raises:
      InputError: the leader ended with a mistake of the user.
      SystemExit: it ended with an exit code.
      Lost: it ended otherwise before its time.
    """
    while (message := _heard())[0] != "end":
        _read()
        if message[0] == "call":
            _, function, structure, settings = message
            with contextlib.suppress(Agreed):  # the leader raises it too, and ends all
                function(_received(structure), *settings)
    _part()
    _, code, sentence = message
    if code == 2:
        raise InputError(sentence)
    if sentence:
        raise Lost(sentence)
    if code:
        sys.exit(code)


def alone() -> ocp.options.MultiprocessingOptions:
    """Orbax's options for a leader that writes without the others."""
    own = {0} if _several() else None
    return ocp.options.MultiprocessingOptions(primary_host=0, active_processes=own)


def spans(mesh: Any) -> bool:
    """Whether a mesh has devices of several processes."""
    return len({device.process_index for device in mesh.devices.flat}) > 1


def placed(x: jax.Array, sharding: Sharding) -> jax.Array:
    """Puts an array that every process has as a whole on the devices of a sharding.

    Args:
      x: array or keys [m, ...], the same in all processes.
      sharding: of the first axis, or of none.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    if _is_key(x):
        return jax.random.wrap_key_data(placed(jax.random.key_data(x), sharding))
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def gathered(tree: _Tree) -> _Tree:
    """Returns arrays that are divided over processes as NumPy arrays, in each of them.

    Args:
      tree: a pytree of arrays; where one process has all of them, they stay as they are.
    """
    leaves = jax.tree.leaves(tree)
    if all(leaf.is_fully_addressable for leaf in leaves):
        return tree
    with lost_told():
        whole = NamedSharding(leaves[0].sharding.mesh, PartitionSpec())
        return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), _copied(whole)(tree))


@functools.cache
def _copied(sharding: Sharding) -> Callable[[Any], Any]:
    """A compiled program that leaves a copy on each device."""
    return jax.jit(lambda tree: tree, out_shardings=sharding)


@contextlib.contextmanager
def lost_told() -> Iterator[None]:
    """Turns the failure of a collective into one sentence; does nothing in a single process."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not _several() or isinstance(error, InputError):
            raise
        raise Lost(f"{last_words.SENTENCE} ({_first_line(error)})") from error


def _several() -> bool:
    """Whether there are several processes; asks no device."""
    return (
        distributed.global_state.client is not None and distributed.global_state.num_processes > 1
    )


def _client() -> Any:
    """What `jax.distributed` talks to its coordinator by."""
    return distributed.global_state.client


def _tell(*message: Any) -> None:
    """Sends the followers a message."""
    global _told
    if _told and message[0] != "end":  # all have met after the one before, so have read it
        _client().key_value_delete(_name(_told - 1))
    _client().key_value_set_bytes(_name(_told), pickle.dumps(message))
    _told += 1


def _heard() -> tuple[Any, ...]:
    """The next message, as soon as there is one."""
    while True:
        try:
            found = _client().blocking_key_value_get_bytes(_name(_told), _PATIENCE_MS)
            return _Reader(io.BytesIO(found)).load()
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise Lost(f"{last_words.SENTENCE} ({_first_line(error)})") from error


def _read() -> None:
    """Goes on to the message after the one that was heard."""
    global _told
    _told += 1


def _name(number: int) -> str:
    """The key of a message."""
    return f"dpfinjax/{number}"


class _Reader(pickle.Unpickler):
    """Reads messages that name functions and settings of dpfinjax, networks and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Finds a function of dpfinjax, a class of it, Flax or Optax, or what networks name."""
        found = getattr(importlib.import_module(module), name)
        package = module.partition(".")[0]
        if package in ("jax", "flax") and name in _OF_NETWORKS:
            return found
        types = package in ("flax", "optax") and isinstance(found, type)
        if found.__module__ == module and (types or package == "dpfinjax"):
            return found
        raise pickle.UnpicklingError(f"A message names {module}.{name}, which none may.")


class _Shape(NamedTuple):
    """What an array is but for its content; of keys, what their words are."""

    shape: tuple[int, ...]
    dtype: str
    is_key: bool

    @classmethod
    def of(cls, x: Any) -> "_Shape":
        """The shape of an array."""
        words = _words(x)
        return cls(words.shape, words.dtype.name, _is_key(x))

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def filled(self, content: bytes) -> Any:
        """The array with this content."""
        array = np.frombuffer(content, self.dtype).reshape(self.shape)
        return jax.random.wrap_key_data(jnp.asarray(array)) if self.is_key else array


def _is_key(x: Any) -> bool:
    """Whether an array has JAX random keys."""
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _words(x: Any) -> np.ndarray:
    """An array as NumPy has it, keys as their words."""
    return np.asarray(jax.random.key_data(x) if _is_key(x) else x)


def _received(structure: Any) -> Any:
    """The arrays that the leader sends with a call."""
    shapes, treedef = jax.tree.flatten(structure, is_leaf=lambda x: isinstance(x, _Shape))
    size = sum(shape.size for shape in shapes)
    content = io.BytesIO(_broadcast(np.zeros(-(-size // 4), np.uint32)).tobytes())
    leaves = [shape.filled(content.read(shape.size)) for shape in shapes]
    return jax.tree.unflatten(treedef, leaves)


def _broadcast(words: np.ndarray) -> np.ndarray:
    """The leader's words, as bits: a sum of floats would lose the sign of a zero."""
    with lost_told():
        return np.asarray(multihost_utils.broadcast_one_to_all(words))


def _first_line(error: Exception) -> str:
    """What a library says, in short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
