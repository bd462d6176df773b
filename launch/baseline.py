"""Trains the candlestick classifier without privacy: the yardstick for the private ones.

  python -m launch.baseline --config.data.source=bars.csv.gz
  python -m launch.baseline --config=configs/baseline.py:paper

The same command with the same --workdir goes on where it was stopped. Every setting is a field of
the config file and can be given as --config.<field>=<value>.
"""

from launch import app
from launch.dpsgd import train_and_evaluate

if __name__ == "__main__":
    app.run(train_and_evaluate, "baseline")
