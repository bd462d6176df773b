"""Labels of new bars by a shared model.

Examples:
  python -m launch.predict --model=logs/dpsgd/release --bars=bars.csv.gz
  python -m launch.predict --model=logs/dpsgd/release --bars=bars.csv --output=labels.parquet
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config.

    Its fields, each of which is a flag of its own too:
      model: a `release/` folder.
      bars: a file of bars, as `config.data.source` takes them.
      output: a .csv or .parquet file; "" for predictions.csv in the workdir.
      stride: 1 for a window ending on each bar, 10 for windows of 10 bars that share none.
    """
    return ConfigDict({"model": "", "bars": "", "output": "", "stride": 1})
