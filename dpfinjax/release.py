"""What may be shared of a private model: its parameters, what runs them, its claim and a card.

A `release/` folder has these four files and nothing else. Everything in them is covered by epsilon,
or public by the assumptions that the claim names.
"""

import contextlib
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from numpy.typing import NDArray

from dpfinjax import model_card, models, privacy, workdir
from dpfinjax.errors import InputError
from dpfinjax.model_card import Card

FOLDER = "release"
"""The only folder of a run that may be shared."""

PARAMETERS, MODEL = "parameters.npz", "model.json"
STATEMENT, CARD = "privacy.json", "MODEL_CARD.md"

_FORMAT = 1
_ENCODING = "Gramian angular summation field of close, upper shadow, lower shadow and real body"
# Far above what any network here needs, and low enough to be refused at once.
_LARGEST_JSON = 1 << 20  # bytes
_LARGEST_KERNEL = 32


class Model(NamedTuple):
    """A network that can be run.

    Attributes:
      module: the network, from images to logits.
      params: its parameters, a pytree of finite float32 arrays.
      labels: the name of each logit.
      length: bars in a window.
    """

    module: models.GafCnn
    params: Any
    labels: tuple[str, ...]
    length: int


def write(
    folder: str | Path,
    name: str,
    model: Model,
    claim: privacy.Claim,
    origin: str,
) -> None:
    """Writes the `release/` of a private model, whole or not at all, in place of an older one.

    There is none of a model that has no finite epsilon, or whose parameters are not finite.

    Args:
      folder: the model's own folder.
      name: what the model is called; nothing that is private may be in it.
      model: the network.
      claim: its privacy statement; only its `shareable` part is written.
      origin: how the model was trained, in sentences without private facts.
    """
    params, claim = _flat(model.params), claim.shareable()
    lost = not all(np.isfinite(array).all() for array in params.values())
    if lost or math.isinf(claim.epsilon):
        return
    stated = claim.to_json()
    count = sum(array.size for array in params.values())
    card = Card(name, claim.sentence(), stated, model.labels, model.length, count, origin)
    with workdir.replacing_folder(Path(folder) / FOLDER) as place:
        np.savez(place / PARAMETERS, **params)  # type: ignore[arg-type]
        workdir.write_json(place / MODEL, _description(model))
        workdir.write_json(place / STATEMENT, stated)
        (place / CARD).write_text(model_card.text(card), "utf-8")


def read(folder: str | Path) -> Model:
    """Reads a model without trusting it: nothing in its files is executed.

    Memory stays within a few times the files' sizes, whatever they claim.

    Args:
      folder: a `release/` folder.

    Returns:
      The model, whose parameters have the names, shapes and type that its network asks for.

    Raises:
      InputError: a file is missing, cannot be read, or does not fit the others.
    """
    folder = Path(folder)
    path = folder / PARAMETERS
    with _mistakes_of(path), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise InputError(f"{path} is compressed, as no file of parameters is.")
        model = _model(folder / MODEL, path.stat().st_size // 4, len(members))
        shapes = _shapes(model)
        if set(shapes) != set(members):
            odd = sorted(set(shapes) ^ set(members))[0]
            raise InputError(f"{path} and {MODEL} disagree about the parameter {odd!r}.")
        if sum(map(math.prod, shapes.values())) > path.stat().st_size // 4:
            raise InputError(f"{path} is too small for the network of {MODEL}.")
        params = {}
        for name, shape in shapes.items():
            with archive.open(members[name]) as file:
                params[name] = _array(file, shape, f"{path}, {name}")
    return model._replace(params=traverse_util.unflatten_dict(params, sep="/"))


def _description(model: Model) -> dict[str, Any]:
    """The content of `model.json`."""
    attributes = {name: getattr(model.module, name) for name in _attributes()}
    return {
        "format": _FORMAT,
        "network": {k: list(v) if isinstance(v, tuple) else v for k, v in attributes.items()},
        "labels": list(model.labels),
        "window_bars": model.length,
        "encoding": _ENCODING,
    }


def _attributes() -> list[str]:
    """The attributes of a network, without those that Flax adds."""
    return [n for n in models.GafCnn.__dataclass_fields__ if n not in ("parent", "name")]


def _model(path: Path, numbers: int, arrays: int) -> Model:
    """The network that `model.json` describes, of at most so many numbers in so many arrays."""
    with _mistakes_of(path):
        if path.stat().st_size > _LARGEST_JSON:
            raise InputError(
                f"{path} has more than {_LARGEST_JSON} bytes; no network needs so many."
            )
        content = json.loads(path.read_bytes())
        if content["format"] != _FORMAT or content["encoding"] != _ENCODING:
            raise InputError(f"{path} is of another format or encoding than this version reads.")
        network, labels, length = (content[k] for k in ("network", "labels", "window_bars"))
        if sorted(network) != sorted(_attributes()):
            raise InputError(f"{path} does not give each attribute of a network once.")
        module = _module(path, network)
        _check_labels(path, labels, module.classes)
        _check_size(path, module, length, numbers, arrays)
    return Model(module, None, tuple(labels), length)


def _module(path: Path, network: Mapping[str, Any]) -> models.GafCnn:
    """The network with these attributes."""
    try:
        return models.build("paper_dpsgd", **network)
    except InputError as error:
        raise InputError(f"{path} describes no network: {error}") from error


def _check_labels(path: Path, labels: Any, classes: int) -> None:
    """Raises InputError unless each class has a name of its own."""
    texts = isinstance(labels, list) and all(isinstance(each, str) and each for each in labels)
    if not texts or not len(labels) == len(set(labels)) == classes:
        raise InputError(f"{path} must have {classes} labels, each another text.")


def _check_size(path: Path, module: models.GafCnn, length: Any, numbers: int, arrays: int) -> None:
    """Raises InputError for a network that cannot have so few parameters, before it is made."""
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise InputError(f"{path} has window_bars {length!r}; it must be a whole number above 0.")
    layers = len(module.widths) + len(module.hidden)
    sizes = (length, module.classes, *module.widths, *module.strides, *module.hidden)
    if module.kernel_size > _LARGEST_KERNEL or max(sizes) > numbers or layers >= arrays:
        raise InputError(f"{path} describes a larger network than {PARAMETERS} has numbers for.")


def _shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter of a network, by its flattened name."""
    image = jax.ShapeDtypeStruct((1, model.length, model.length, 4), jnp.float32)
    wanted = jax.eval_shape(model.module.init, jax.random.key(0), image)["params"]
    return {name: leaf.shape for name, leaf in traverse_util.flatten_dict(wanted, sep="/").items()}


def _array(file: IO[bytes], shape: tuple[int, ...], where: str) -> NDArray[np.float32]:
    """A float32 array of this shape from an open .npy file, which may say nothing else."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise InputError(f"{where} is of an unknown version of the npy format.")
    found, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if (found, fortran, dtype) != (shape, False, np.dtype("<f4")):
        raise InputError(f"{where} is {dtype} of shape {found}; it must be float32 of {shape}.")
    array = np.frombuffer(file.read(4 * math.prod(shape) + 1), "<f4").reshape(shape)
    if not np.isfinite(array).all():
        raise InputError(f"{where} has numbers that are not finite.")
    return array.astype(np.float32)


def _flat(params: Any) -> Mapping[str, NDArray[np.float32]]:
    """Parameters by flattened name, as NumPy arrays."""
    leaves = traverse_util.flatten_dict(jax.device_get(params), sep="/")
    return {name: np.asarray(leaf, np.float32) for name, leaf in sorted(leaves.items())}


@contextlib.contextmanager
def _mistakes_of(path: Path) -> Iterator[None]:
    """Turns whatever a broken file makes a reader raise into one sentence about it."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; a model is a {FOLDER}/ folder of a run.") from error
    except Exception as error:
        reason = type(error).__name__
        raise InputError(f"{path} cannot be read as part of a model ({reason}).") from error
