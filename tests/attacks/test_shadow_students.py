"""Shadows of a PATE student are its PATE again, but for the examples and the keys."""

import jax
import numpy as np
import pytest

from configs import pate as pate_config
from dpfinjax import data, memory, resumable, workdir
from dpfinjax.attacks import answers, design, metrics, shadow_models, shadow_students, targets
from dpfinjax.data import Examples
from dpfinjax.errors import InputError
from dpfinjax.pate import ensemble, students
from launch import pate as job
from tests.test_resumable import Killed
from tests.test_training import assert_trees_equal

pytestmark = pytest.mark.long

TEACHERS = 2


@pytest.fixture(autouse=True, scope="module")
def roomy():
    """Memory for any number of models, without compiling a program to find out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "models_that_fit", lambda *_: 99)
        yield


def make_config(cache, **changes):
    """Few tests change what is compiled."""
    config = pate_config.get_config("quick")
    config.data.update(sim_bars=120_000, cache_dir=cache)
    config.update(seed=0, teachers=TEACHERS, mechanism="gaussian", target_epsilon=None, scale=0.5)
    config.update(answers=20, models_at_once=1)
    for part in ("teacher", "student"):
        config[part].model.update(variant="gaf_cnn", widths=(4, 4), hidden=(8,))
        config[part].update(epochs=1.0, microbatch=128)  # one piece, which compiles faster
    config.update(changes)
    return config


class World:
    """A student to be, with its splits and pool."""

    def __init__(self, config):
        (self.student,) = students.students_of(config, data.describe(config))
        self.splits = data.load(config)
        self.pool = targets.pool(self.splits, 0)

    def membership(self, models=2):
        return design.balanced(0, models, len(self.pool.is_member))

    def train(self, membership, folder, models_at_once=16, keys=None):
        keys = keys or shadow_students.keys_of(self.student, len(membership))
        examples = self.pool.examples
        arguments = (keys, self.student, membership, examples, self.splits, folder)
        return shadow_students.train(*arguments, models_at_once)


@pytest.fixture(scope="module")
def world(cache):
    return World(make_config(cache))


class Watched:
    """Two shadows, one of them with all that the target has, and what could be seen of them."""

    def __init__(self, world, folder):
        self.world = world
        self.keys = students.keys_of([world.student]) + shadow_students.keys_of(world.student, 1)
        self.membership = np.stack([world.pool.is_member, ~world.pool.is_member])
        self.asked, self.told, self.params = [], [], []
        with pytest.MonkeyPatch.context() as patch:
            self._watch(patch, ensemble, "ask", lambda args, _: self.asked.append(args))
            self._watch(patch, students, "label", lambda args, out: self.told.append((args, out)))
            self._watch(patch, answers, "answer", lambda args, _: self.params.append(args[0]))
            self.shadows = self.train(folder)

    def _watch(self, patch, module, name, see):
        function = getattr(module, name)

        def watched(*args):
            out = function(*args)
            see(args, out)
            return out

        patch.setattr(module, name, watched)

    def train(self, folder, models_at_once=1):
        return self.world.train(self.membership, folder, models_at_once, self.keys)


@pytest.fixture(scope="module")
def watched(world, tmp_path_factory):
    return Watched(world, tmp_path_factory.mktemp("shadows"))


def test_a_shadow_with_the_target_s_examples_and_keys_is_the_target(watched, tmp_path, cache):
    config = make_config(cache)
    job.train_and_vote(config, tmp_path)
    (target,) = targets.trained([tmp_path], data.describe(config))
    assert target.run.plan == watched.world.student.plan
    assert_trees_equal(watched.params[0], targets.params(target, watched.world.pool.data))
    moved = [
        np.abs(np.asarray(a) - np.asarray(b)).max()
        for a, b in zip(*map(jax.tree.leaves, watched.params), strict=True)
    ]
    assert max(moved) > 0.01  # other examples and other keys make another student


def test_no_two_shadows_share_a_key_and_none_has_one_of_the_target_s(world):
    keys = shadow_students.keys_of(world.student, 16) + students.keys_of([world.student])
    assert len({key.partition for key in keys}) == len(keys)
    words = np.stack([jax.random.key_data(own) for key in keys for own in key[1:]])
    assert len(np.unique(words, axis=0)) == len(words) == 3 * len(keys)


def test_parts_divide_a_shadow_s_own_half_by_its_own_hash(world):
    membership, examples = world.membership(4), world.pool.examples
    keys = shadow_students.keys_of(world.student, 4)
    parts = shadow_students._parts(keys, world.student, membership, examples)
    for shadow, mine in enumerate(membership):
        key = keys[shadow].partition
        teacher = ensemble.assign(examples.image, examples.label, TEACHERS, key)
        for number in range(TEACHERS):
            rows = parts.rows[shadow, number, : parts.size[shadow, number]]
            np.testing.assert_array_equal(rows, np.flatnonzero(mine & (teacher == number)))


def test_what_epsilon_is_about_and_the_steps_are_the_target_s_whatever_a_half_holds(watched):
    student, splits = watched.world.student, watched.world.splits
    mine = students.teacher_settings(student.config, len(splits.train.label))
    assert [(args[1], args[6]) for args in watched.asked] == [mine] * 2
    sizes = np.concatenate([np.asarray(args[2].size) for args in watched.asked])
    assert len(set(sizes)) > 1
    assert [args[0].plan for args, _ in watched.told] == [student.plan] * 2
    first, second = (labels for _, labels in watched.told)
    np.testing.assert_array_equal(first.rows, second.rows)
    assert len(first.rows) == student.plan.queries == 20


def test_teachers_vote_alike_whatever_is_trained_together(watched, tmp_path, monkeypatch):
    told = []

    def stop(keys, config, labels, *rest):
        told.extend(labels)
        raise Killed

    monkeypatch.setattr(students, "train", stop)
    with pytest.raises(Killed):
        watched.train(tmp_path, models_at_once=3)  # both in a chunk, one after the other
    for together, (_, alone) in zip(told, watched.told, strict=True):
        assert np.abs(together.votes - alone.votes).sum() <= 2  # of one query at most, by rounding
        assert (together.answers == alone.answers).mean() > 0.9


def test_an_interrupted_training_ends_with_the_same_bits(watched, tmp_path, monkeypatch):
    fit, begun = resumable.fit, []

    def die(*args):
        begun.append(args)
        if len(begun) == deadly:
            raise Killed
        return fit(*args)

    monkeypatch.setattr(resumable, "fit", die)
    # Of each shadow two programs of teachers, the student, and the student again. The last call but
    # one reads what the first shadow's teachers answered, and begins with the second shadow.
    for deadly in (2, 3, 4, 0):
        begun.clear()
        if deadly:
            with pytest.raises(Killed):
                watched.train(tmp_path)
            assert not (tmp_path / "logits.npy").exists()
    got, expected = watched.train(tmp_path), watched.shadows
    assert len(begun) == 4  # of the second shadow alone
    np.testing.assert_array_equal(got.answers.logits, expected.answers.logits)
    np.testing.assert_array_equal(got.answers.grad_norm, expected.answers.grad_norm)
    np.testing.assert_array_equal(np.load(tmp_path / "membership.npy"), watched.membership)
    assert not (tmp_path / "unfinished").exists()


def few(examples, rows):
    return Examples(*(part[rows] for part in examples))


@pytest.fixture(scope="module")
def leaky(cache):
    """A teacher that is asked its own images, whose labels only who was trained on them knows."""
    config = make_config(cache, teachers=1, semi_supervised=False, answers=None)
    for part in ("teacher", "student"):
        config[part].update(epochs=60.0, learning_rate=1e-2, weight_decay=0.0, batch_size=16)
        config[part].model.update(widths=(8, 8), hidden=(32,))
    world = World(config)
    pool = few(world.pool.examples, np.arange(160))
    pool = pool._replace(label=np.random.default_rng(3).integers(0, 8, 160).astype(np.int32))
    world.pool = targets.Pool(pool, np.arange(160) < 80)
    world.splits = world.splits._replace(public=pool, train=few(pool, np.arange(80)))
    return world


@pytest.mark.parametrize(("scale", "least", "most"), [(1e-3, 0.75, 1.0), (1e6, 0.35, 0.65)])
def test_what_a_teacher_learnt_by_heart_shows_in_its_student_unless_noise_hides_it(
    leaky, tmp_path, scale, least, most
):
    plan = leaky.student.plan._replace(scale=scale, queries=160, answers=160)
    leaky.student = leaky.student._replace(plan=plan)
    shadows = leaky.train(leaky.membership(2), tmp_path)
    margins = answers.margins(shadows.answers.logits, leaky.pool.examples.label)
    areas = [metrics.roc(*one).auc for one in zip(margins, shadows.membership, strict=True)]
    assert least < np.mean(areas) < most


def test_shadows_of_another_plan_or_design_are_refused(watched, tmp_path, world):
    membership, student = world.membership(), world.student
    keys = shadow_students.keys_of(student, 2)

    def train(student, membership):
        arguments = (world.pool.examples, world.splits, tmp_path, 16)
        return shadow_students.train(keys, student, membership, *arguments)

    bound = students.bound([student]) | {"examples": len(world.splits.train.label)}
    workdir.claim(tmp_path, student.config, bound | shadow_models.bound_to(membership))
    with pytest.raises(InputError, match=r"scale is 0\.5 there and 0\.6 here"):
        train(student._replace(plan=student.plan._replace(scale=0.6)), membership)
    with pytest.raises(InputError, match=r"it\.membership"):
        train(student, ~membership)
    with pytest.raises(InputError, match="Example 0 is in all shadow models"):
        train(student, membership | True)
    with pytest.raises(InputError, match="at least 2 shadow models"):
        train(student, membership[:1])
