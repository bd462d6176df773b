import itertools
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from ml_collections import ConfigDict

from dpfinjax import data, workdir
from dpfinjax.data import bars, binance, gaf, patterns, simulate, windows
from dpfinjax.errors import InputError

REPOSITORY = Path(__file__).parents[2]
REAL_DATA = REPOSITORY / os.environ.get("DPFINJAX_DATA", "../shared/data")

FRACTIONS = (0.5, 0.1, 0.2, 0.1, 0.1)


def write_csv(path: Path, table: bars.Bars) -> Path:
    columns = {"timestamp": np.datetime_as_string(table.time, "s", timezone="UTC")}
    columns |= table._asdict()
    del columns["time"]
    out = pa.CompressedOutputStream(path, "gzip") if path.suffix == ".gz" else path.open("wb")
    with out:
        pa.csv.write_csv(pa.table(columns), out)
    return path


@pytest.fixture(scope="module")
def twin(tmp_path_factory) -> Path:
    """A file made like the real one: minutes with gaps and with bars that did not move."""
    table = simulate.bars(100_000, 3)
    kept = np.random.default_rng(0).random(table.time.size) > 0.01
    table = bars.Bars(*(column[kept] for column in table))
    return write_csv(tmp_path_factory.mktemp("twin") / "ethusd_1m.csv.gz", table)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def configured(cache, **fields) -> ConfigDict:
    config = ConfigDict({"data": data.default_config()})
    config.data.fractions = FRACTIONS
    config.data.cache_dir = str(cache)
    for name, value in fields.items():
        config.data[name] = value
    return config


def real_file(name: str) -> Path:
    if not (REAL_DATA / name).exists():
        pytest.skip(f"{name} is not here; DPFINJAX_DATA names the folder that has it")
    return REAL_DATA / name


either_file = pytest.mark.parametrize(
    "pick",
    [lambda twin: twin, lambda twin: real_file("eurusd_1m.csv.gz")],
    ids=["twin", "real"],
)


def assert_same(first: data.Splits, second: data.Splits):
    for one, other in zip(first, second, strict=True):
        for values, others in zip(one, other, strict=True):
            assert values.dtype == others.dtype
            np.testing.assert_array_equal(values, others)


@either_file
def test_the_splits_are_the_images_of_the_windows_of_the_file(twin, cache, pick):
    source = pick(twin)
    splits = data.load(configured(cache, source=str(source)))
    table = bars.read(source)
    cut = windows.cut(table, patterns.detect(table.open, table.high, table.low, table.close))
    everything = [np.concatenate(values) for values in zip(*splits, strict=True)]
    order = np.argsort(everything[3])
    image, label, ohlc, time, unit = (values[order] for values in everything)
    np.testing.assert_array_equal(unit, np.arange(unit.size))
    np.testing.assert_array_equal(time, cut.time)
    np.testing.assert_array_equal(label, cut.label)
    np.testing.assert_array_equal(ohlc, cut.ohlc)
    np.testing.assert_array_equal(image, gaf.encode(cut.ohlc))
    for split, share in zip(splits, FRACTIONS, strict=True):
        assert abs(split.label.size - share * cut.label.size) <= 1
        assert split.image.dtype == np.float32
        assert split.label.dtype == np.int32
        assert split.ohlc.dtype == np.float64
        assert split.time.dtype == "datetime64[us]"
        assert all(values.flags.writeable for values in split)
        assert (np.diff(split.time) > np.timedelta64(0, "s")).all()


@either_file
@pytest.mark.parametrize("how", ["random", "chronological"])
def test_no_bar_of_the_file_is_in_two_examples_of_any_split(twin, cache, pick, how):
    source = pick(twin)
    splits = data.load(configured(cache, source=str(source), split=how))
    table = bars.read(source)
    moved = np.flatnonzero(table.open != table.close)
    last = [np.searchsorted(table.time[moved], split.time) for split in splits]
    members = np.concatenate([(end[:, None] - np.arange(10)).ravel() for end in last])
    assert np.unique(members).size == members.size
    for split, end in zip(splits, last, strict=True):
        first = moved[end - 9]
        np.testing.assert_array_equal(split.ohlc[:, 0, 0], table.open[first])
        minutes = (split.time - table.time[first]) / np.timedelta64(1, "m")
        np.testing.assert_array_equal(minutes, moved[end] - first)  # no minute is missing


@either_file
def test_chronological_splits_follow_each_other_with_the_purge_gap_between(twin, cache, pick):
    source = pick(twin)
    config = configured(cache, source=str(source), split="chronological", purge_bars=2000)
    splits = data.load(config)
    table = bars.read(source)
    moved_time = table.time[table.open != table.close]
    for earlier, later in itertools.pairwise(splits):
        end, start = np.searchsorted(moved_time, [earlier.time.max(), later.time.min()])
        assert start - 9 - end - 1 >= 2000


def test_the_real_minutes_give_enough_windows_of_every_pattern():
    table = bars.read(real_file("ethusd_1m.csv.gz"))
    labels = patterns.detect(table.open, table.high, table.low, table.close)
    counts = np.bincount(windows.cut(table, labels).label, minlength=8)
    # Ten thousand without regard to gaps, of which a fifth have a missing minute inside.
    assert 8000 < counts.sum() < 8500
    assert counts.min() > 500


def test_loading_twice_gives_the_same_arrays_and_builds_once(twin, cache, monkeypatch):
    config = configured(cache, source=str(twin))
    first = data.load(config)
    monkeypatch.setattr(patterns, "detect", None)  # whoever builds again fails
    assert_same(first, data.load(config))
    assert "tensorflow" not in sys.modules


def test_the_same_settings_give_the_same_arrays_in_another_cache(twin, cache, tmp_path):
    config, elsewhere = (configured(root, source=str(twin)) for root in (cache, tmp_path))
    assert_same(data.load(config), data.load(elsewhere))


def test_simulated_bars_follow_from_the_seed(cache, tmp_path):
    settings = {"source": "sim", "sim_bars": 100_000}
    first = data.load(configured(cache, **settings))
    assert_same(first, data.load(configured(tmp_path, **settings)))
    other = data.load(configured(cache, **settings, seed=1))
    assert first.train.label.shape != other.train.label.shape or not np.array_equal(
        first.train.ohlc, other.train.ohlc
    )


def test_the_default_config_simulates_enough_for_the_paper():
    config = data.default_config()
    table = simulate.bars(config.sim_bars, config.seed)
    cut = windows.cut(table, patterns.detect(table.open, table.high, table.low, table.close))
    assert cut.label.size * config.fractions[0] >= 13_170


def test_several_files_are_one_source(twin, cache, tmp_path):
    table = bars.read(twin)
    halves = [slice(0, 40_000), slice(40_000, None)]
    paths = [
        write_csv(tmp_path / f"part{number}.csv", bars.Bars(*(column[half] for column in table)))
        for number, half in enumerate(halves)
    ]
    whole = data.load(configured(cache, source=str(twin)))
    assert_same(whole, data.load(configured(tmp_path, source=[str(path) for path in paths])))
    assert_same(whole, data.load(configured(tmp_path, source=",".join(map(str, paths)))))


def test_a_binance_source_is_downloaded_and_then_read(twin, cache, tmp_path, monkeypatch):
    asked = []

    def download(*arguments):
        asked.append(arguments)
        return [twin]

    monkeypatch.setattr(binance, "download", download)
    source = "binance:ETHUSDT:1m:2020-01:2020-02"
    config = configured(tmp_path, source=source, binance_url="http://127.0.0.1:9")
    assert_same(data.load(configured(cache, source=str(twin))), data.load(config))
    expected = (binance.parse(source), "http://127.0.0.1:9", tmp_path / "binance")
    assert asked[0] == expected


def paper(counts: dict[str, int]) -> dict[str, np.ndarray]:
    """A made twin of the paper's pickle."""
    rng = np.random.default_rng(0)
    content = {}
    for name, count in counts.items():
        ohlc = rng.uniform(100, 101, (count, 10, 4))
        label = np.arange(count) % 8
        content[f"{name}_culr_gaf"] = rng.uniform(-1, 1, (count, 10, 10, 4))
        content[f"{name}_onehot"] = np.eye(8)[label]
        content[f"{name}_ohlc"] = ohlc
        content[f"{name}_label"] = label
    return content


def test_the_papers_train_and_validation_stay_and_its_test_is_divided(tmp_path):
    content = paper({"train": 40, "val": 9, "test": 50})
    path = tmp_path / "ETH_gaf.pkl"
    path.write_bytes(pickle.dumps(content))
    config = configured(tmp_path, source=str(path))
    splits = data.load(config)
    for split, name in ((splits.train, "train"), (splits.validation, "val")):
        np.testing.assert_array_equal(split.ohlc, content[f"{name}_ohlc"])
        np.testing.assert_array_equal(split.label, content[f"{name}_label"])
        image = content[f"{name}_culr_gaf"].astype(np.float32)
        np.testing.assert_array_equal(split.image, image)
    rest = (splits.test, splits.public, splits.population)
    assert [part.label.size for part in rest] == [25, 12, 13]  # as 0.2, 0.1 and 0.1
    opens = np.sort(np.concatenate([part.ohlc[:, 0, 0] for part in rest]))
    np.testing.assert_array_equal(opens, np.sort(content["test_ohlc"][:, 0, 0]))
    assert all(np.isnat(part.time).all() for part in splits)
    facts = data.describe(config)
    assert not facts.disjoint
    assert "overlap" in facts.unit


def test_the_papers_pickle_is_not_split_by_time(tmp_path):
    path = tmp_path / "ETH_gaf.pkl"
    path.write_bytes(pickle.dumps(paper({"train": 8, "val": 8, "test": 8})))
    with pytest.raises(InputError, match="split is 'chronological', but the paper's pickle"):
        data.load(configured(tmp_path, source=str(path), split="chronological"))
    with pytest.raises(InputError, match="length is 12, but the paper's images"):
        data.load(configured(tmp_path, source=str(path), length=12))


def test_the_facts_count_every_bar_and_window(twin, cache):
    config = configured(cache, source=str(twin), split="chronological")
    facts, splits, table = data.describe(config), data.load(config), bars.read(twin)
    labels = patterns.detect(table.open, table.high, table.low, table.close)
    assert facts.source == str(twin)
    assert facts.bars == table.time.size
    assert facts.moved_bars == (table.open != table.close).sum()
    assert facts.patterns == (labels >= 0).sum()
    assert facts.patterns == facts.windows + facts.windows_with_gap + facts.windows_overlapping
    assert facts.windows_with_gap > 0
    assert facts.windows_unused == facts.windows - sum(part.label.size for part in splits) > 0
    for name, part in zip(splits._fields, splits, strict=True):
        counts = np.bincount(part.label, minlength=8).tolist()
        assert facts.examples[name] == dict(zip(patterns.PATTERNS, counts, strict=True))
    assert facts.disjoint
    assert Path(facts.folder).is_dir()


def damage_truncated(folder: Path):
    [file] = folder.glob("*train*")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def damage_flipped(folder: Path):
    [file] = folder.glob("*train*")
    content = bytearray(file.read_bytes())
    at = content.index(b"image") + 40
    content[at] ^= 255
    file.write_bytes(content)


def damage_removed(folder: Path):
    [file] = folder.glob("*population*")
    file.unlink()


def damage_description(folder: Path):
    (folder / "dataset_info.json").write_text("{")


def damage_facts(folder: Path):
    (folder / "metadata.json").unlink()


@pytest.mark.parametrize(
    "damage",
    [damage_truncated, damage_flipped, damage_removed, damage_description, damage_facts],
)
def test_a_damaged_dataset_is_made_again(tmp_path, damage):
    config = configured(tmp_path, source="sim", sim_bars=100_000)
    good, facts = data.load(config), data.describe(config)
    damage(Path(facts.folder))
    if damage is not damage_facts:
        assert_same(good, data.load(config))
    assert data.describe(config) == facts
    assert_same(good, data.load(config))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"source": "nowhere.csv"}, "data.source: nowhere.csv cannot be read (No such file"),
        ({"source": ["nowhere.csv", "b.csv"]}, "data.source: nowhere.csv cannot be read"),
        ({"source": "/"}, "data.source: / cannot be read (Is a directory)"),
        ({"source": ""}, "data.source is ''; it must be sim, binance:"),
        ({"source": []}, "data.source is []; it must be sim, binance:"),
        ({"source": 7}, "data.source is 7; it must be sim, binance:"),
        ({"source": "binance:ETHUSDT"}, "data.source 'binance:ETHUSDT' should be like binance:"),
        ({"split": "stratified"}, "data.split is 'stratified'; it must be random or chronological"),
        ({"fractions": (0.5, 0.5)}, "data.fractions has 2 numbers; it must have five, for train,"),
        ({"fractions": (0.9, 0.05, 0.05, 0.05, 0.05)}, "data.fractions add up to 1.1; at most 1"),
        ({"fractions": (0.9, 0.1, 0.0, 0.0, 0.0)}, "each must be a positive number"),
        ({"fractions": ("a", 0.1, 0.1, 0.1, 0.1)}, "each must be a positive number"),
        ({"seed": -1}, "data.seed is -1; it must be a whole number of at least 0."),
        ({"sim_bars": 0}, "data.sim_bars is 0; it must be a whole number of at least 1."),
        ({"length": 2}, "data.length is 2; it must be a whole number of at least 3."),
        (
            {"split": "chronological", "purge_bars": 100},
            "data.purge_bars is 100, but a label rests on up to 1450 bars",
        ),
        ({"sim_bars": 1000}, "data.source has no window of 10 bars that ends in a pattern: it has"),
        ({"sim_bars": 3000}, "windows in the five splits none is in"),
        ({"sim_bars": 100_000, "cache_dir": __file__}, "cannot be written"),
    ],
)
def test_a_mistake_is_told_in_one_sentence_that_names_the_field(tmp_path, fields, sentence):
    with pytest.raises(InputError) as caught:
        data.load(configured(tmp_path, **fields))
    message = str(caught.value)
    assert sentence in message
    assert "data." in message
    assert "\n" not in message
    assert not list(tmp_path.glob("candlestick_gaf/*/*")), "something half-written is left"


def test_a_pattern_without_a_training_example_is_named(tmp_path):
    content = paper({"train": 6, "val": 8, "test": 9})
    path = tmp_path / "ETH_gaf.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(
        InputError,
        match="none of the 6 windows of the train split is of the pattern 'bearish harami'",
    ):
        data.load(configured(tmp_path, source=str(path)))


def test_the_cache_is_where_the_xdg_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    facts = data.describe(configured("", source="sim", sim_bars=100_000))
    assert Path(facts.folder).is_relative_to(tmp_path / "dpfinjax" / "candlestick_gaf")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert workdir.cache_folder() == Path.home() / ".cache" / "dpfinjax"


CLIENTS = 10


@pytest.fixture(scope="module")
def markets() -> dict[str, bars.Bars]:
    """Bars of several clients, all of the same minutes."""
    return {f"client {number}": simulate.bars(12_000, number) for number in range(CLIENTS)}


def write_clients(path: Path, markets: dict[str, bars.Bars]) -> Path:
    """A file of their rows in time's order, so that every client's are torn apart."""
    whole = bars.Bars(*map(np.concatenate, zip(*markets.values(), strict=True)))
    names = np.repeat(list(markets), [table.time.size for table in markets.values()])
    order = np.random.default_rng(0).permutation(names.size)
    order = order[np.argsort(whole.time[order], kind="stable")]
    columns = {"time": np.datetime_as_string(whole.time[order], "s", timezone="UTC")}
    columns |= {name: column[order] for name, column in list(whole._asdict().items())[1:]}
    pa.csv.write_csv(pa.table(columns | {"client": names[order]}), path)
    return path


def of_unit(cache, unit: str, **fields) -> ConfigDict:
    config = configured(cache, **fields)
    config.privacy = ConfigDict({"unit": unit})
    return config


def as_one(splits: data.Splits) -> data.Examples:
    """All examples by unit, then in time's order."""
    whole = data.Examples(*map(np.concatenate, zip(*splits, strict=True)))
    order = np.lexsort((whole.time, whole.unit))
    return data.Examples(*(values[order] for values in whole))


def test_the_windows_of_interleaved_clients_are_those_of_each_one_alone(tmp_path, markets):
    source = write_clients(tmp_path / "bars.csv", markets)
    splits = data.load(of_unit(tmp_path, "client", source=str(source)))
    whole = as_one(splits)
    expected = [
        windows.cut(table, patterns.detect(table.open, table.high, table.low, table.close))
        for table in markets.values()
    ]
    for number, cut in enumerate(expected):
        own = whole.unit == number
        np.testing.assert_array_equal(whole.time[own], cut.time)
        np.testing.assert_array_equal(whole.label[own], cut.label)
        np.testing.assert_array_equal(whole.ohlc[own], cut.ohlc)
    assert whole.label.size == sum(cut.label.size for cut in expected)


def test_the_bars_of_a_client_have_no_say_in_another_one_s_examples(tmp_path, markets):
    others = markets | {"client 3": simulate.bars(11_000, 99)}
    found = [
        as_one(data.load(of_unit(tmp_path, "client", source=str(write_clients(path, series)))))
        for path, series in ((tmp_path / "a.csv", markets), (tmp_path / "b.csv", others))
    ]
    kept = [data.Examples(*(v[each.unit != 3] for v in each)) for each in found]
    for before, after in zip(*kept, strict=True):
        np.testing.assert_array_equal(before, after)
    assert found[0].label.size != found[1].label.size


@pytest.mark.parametrize("unit", ["day", "week", "client"])
def test_a_unit_is_in_one_split_and_the_facts_count_it(tmp_path, markets, unit):
    if unit == "client":
        source, settings = str(write_clients(tmp_path / "bars.csv", markets)), {}
    else:
        source, settings = "sim", {"sim_bars": 150_000}
    config = of_unit(tmp_path, unit, source=source, **settings)
    splits, facts = data.load(config), data.describe(config)
    owners = [set(split.unit.tolist()) for split in splits]
    assert sum(map(len, owners)) == len(set().union(*owners))
    for split, name in zip(splits, splits._fields, strict=True):
        assert (np.diff(split.time) >= np.timedelta64(0, "s")).all()
        counts = np.unique(split.unit, return_counts=True)[1]
        assert facts.units[name] == np.bincount(counts).tolist()
    assert facts.unit_name == unit
    assert f"one {unit}" in facts.unit


@pytest.mark.parametrize("how", ["random", "chronological"])
def test_every_bar_of_an_example_is_of_its_own_day(tmp_path, how):
    config = of_unit(tmp_path, "day", source="sim", sim_bars=200_000, split=how)
    splits, facts = data.load(config), data.describe(config)
    table = simulate.bars(200_000, 0)
    moved = table.open != table.close
    times, opens = table.time[moved], table.open[moved]
    days = {}
    for split in splits:
        last = np.searchsorted(times, split.time)
        np.testing.assert_array_equal(split.ohlc[:, 0, 0], opens[last - 9])
        first_day, last_day = (times[at].astype("datetime64[D]") for at in (last - 9, last))
        np.testing.assert_array_equal(first_day, last_day)
        for day, number in zip(last_day.tolist(), split.unit.tolist(), strict=True):
            assert days.setdefault(day, number) == number
    assert len(set(days.values())) == len(days)
    assert facts.windows_crossing > 0
    assert "the days after it" in facts.assumptions[0]


def test_a_day_s_bars_change_no_image_of_another_day(tmp_path):
    """The day's windows may change, and which windows later days have; what these show may not."""
    table = simulate.bars(100_000, 3)
    day = table.time.astype("datetime64[D]")
    changed = day == day[50_000]
    other = bars.Bars(*(np.where(changed, 1.1 * c, c) if c.dtype == float else c for c in table))
    found = []
    for name, each in (("a", table), ("b", other)):
        source = write_csv(tmp_path / f"{name}.csv", each)
        found.append(as_one(data.load(of_unit(tmp_path, "day", source=str(source)))))
    days = [each.time.astype("datetime64[D]") for each in found]
    same, first, second = np.intersect1d(found[0].time, found[1].time, return_indices=True)
    moved = days[0][first] == day[50_000]
    differs = (found[0].image[first] != found[1].image[second]).any(axis=(1, 2, 3))
    differs |= (found[0].ohlc[first] != found[1].ohlc[second]).any(axis=(1, 2))
    assert not differs[~moved].any()
    assert differs[moved].any()
    before = [each.time[d < day[50_000]] for each, d in zip(found, days, strict=True)]
    np.testing.assert_array_equal(*before)
    assert same.size > 0.9 * found[0].time.size


@pytest.mark.parametrize(
    ("unit", "fields", "sentence"),
    [
        ("client", {"source": "sim"}, r"privacy\.unit is 'client', but simulated bars"),
        ("close", {"source": "sim"}, r"privacy\.unit is 'close'"),
        ("", {"source": "sim"}, r"privacy\.unit is ''"),
        (7, {"source": "sim"}, r"privacy\.unit is 7"),
        ("day", {"source": "ETH_gaf.pkl"}, r"privacy\.unit is 'day', but the paper's pickle"),
        ("client", {"split": "chronological", "source": "x.csv"}, "split is 'chronological'"),
    ],
)
def test_a_unit_that_the_source_does_not_have_is_refused(tmp_path, unit, fields, sentence):
    config = configured(tmp_path, **fields)
    config.privacy = ConfigDict({"unit": unit})
    with pytest.raises(InputError, match=sentence):
        data.load(config)


def test_a_file_without_the_unit_s_column_is_refused(twin, tmp_path):
    with pytest.raises(InputError, match="has no column 'client'"):
        data.load(of_unit(tmp_path, "client", source=str(twin)))
    assert not any(tmp_path.glob("candlestick_gaf/*/[0-9]*"))


def test_a_way_of_reading_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"data\.stream is 'often'; it must be one of auto, never"):
        data.name(configured(tmp_path, source="sim", stream="often"))


def test_a_job_that_needs_all_images_refuses_to_stream(tmp_path):
    with pytest.raises(InputError, match="this job needs all images in memory"):
        data.load(configured(tmp_path, source="sim", stream="always"))
