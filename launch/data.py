"""Builds the images from bars and shows them: what there is, and what a model will see.

  python -m launch.data                                    # a simulated market
  python -m launch.data --config.data.source=bars.csv.gz
  python -m launch.data --config.data.source=binance:ETHUSDT:1m:2020-01:2020-12

Writes counts.csv, facts.json and, under plots/, the number of examples of each pattern and one
example of each as a candlestick chart and its four image channels.
"""

from pathlib import Path

from ml_collections import ConfigDict

from dpfinjax import data, plots, workdir
from dpfinjax.data.patterns import PATTERNS
from launch import app


def build_and_draw(config: ConfigDict, folder: str | Path) -> data.Facts:
    """Prepares the data set of a config and draws it.

    Args:
      config: as `configs/data.py` makes it.
      folder: the run's folder, see `workdir.claim`.

    Returns:
      What is known of the data.

    Raises:
      InputError: for a config, data or folder that cannot be used.
    """
    workdir.check(folder, config)
    splits, facts = data.load(config), data.describe(config)
    folder = workdir.claim(folder, config, {"data": Path(facts.folder).parent.name})
    pictures = folder / "plots"
    pictures.mkdir(exist_ok=True)

    workdir.write_json(folder / "facts.json", facts._asdict())
    rows = [{"pattern": p} | {s: facts.examples[s][p] for s in facts.examples} for p in PATTERNS]
    workdir.write_csv(folder / "counts.csv", rows)
    plots.pattern_counts(pictures / "counts.png", facts.examples)
    train = splits.train
    plots.pattern_sheet(pictures / "patterns.png", train.ohlc, train.image, train.label, PATTERNS)
    _print(facts)
    print(f"\nPrepared in {facts.folder}\nWritten to {folder}")
    return facts


def _print(facts: data.Facts) -> None:
    """The counts as a table, and what became of the bars."""
    splits = list(facts.examples)
    print(f"{'pattern':<20}" + "".join(f"{split:>12}" for split in splits))
    for pattern in PATTERNS:
        print(f"{pattern:<20}" + "".join(f"{facts.examples[s][pattern]:>12,}" for s in splits))
    totals = [sum(facts.examples[split].values()) for split in splits]
    print(f"{'all':<20}" + "".join(f"{total:>12,}" for total in totals))
    left_out = f"{facts.windows_with_gap:,} more have a gap inside"
    left_out += f", {facts.windows_overlapping:,} overlap another"
    print(
        f"\n{facts.bars:,} bars, {facts.patterns:,} of them end a pattern; {facts.windows:,} "
        f"windows ({left_out}); {facts.windows_unused:,} windows are in no split."
    )


if __name__ == "__main__":
    app.run(build_and_draw, "data")
