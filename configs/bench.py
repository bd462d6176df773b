"""How fast everything is on this machine.

Variants, after a colon:
  (none)   every figure of this library, about ten minutes on two cores.
  quick    the same figures from few and short measurements, some seconds: to see that it works.
  peers    also Opacus and jax_privacy, on the same network, batches, noise and cores.

Examples:
  python -m launch.bench
  python -m launch.bench --config=configs/bench.py:peers --config.peers_python=peers/bin/python
"""

from ml_collections import ConfigDict

from configs import dpsgd
from configs.common import variant_of


def _quick(config: ConfigDict) -> None:
    config.examples = 600
    config.batch_sizes = (32,)
    config.repeats = 3
    config.part_steps = 3
    config.sweep_cells = (1, 3)
    config.teachers = 4
    config.shadow_models = 4
    config.memory_batch_size = 64
    config.bars = 20_000
    config.windows = 500
    config.settings = 20
    config.reference_settings = 2
    config.noise_draws = 1_000_000
    config.peers_batch_sizes = (32,)
    config.peers_rounds = 1
    config.peers_seconds = 0.05


def _peers(config: ConfigDict) -> None:
    config.peers = True


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a variant.

    Its fields beside those of a training, which are in `train`:
      examples: number of training images.
      batch_sizes, methods: of the table of steps.
      repeats: measurements of each thing, in turns with those that it is compared with.
      part_steps: steps in one measurement of a part of the step.
      sweep_batch_size, sweep_cells: batch size and numbers of models trained as one program.
      teachers: models that train on disjoint parts of the images.
      shadow_models: models that train on random halves of the images.
      paper_cells, paper_epochs: the sweep whose duration is extrapolated.
      memory_batch_size: where compiled programs are asked for their memory.
      bars, windows: simulated, for the rates of the data.
      settings, reference_settings: how many epsilons, here and by dp_accounting.
      noise_draws: how many normals are tested.
      peers: whether to run other libraries too, with `peers_python` ("" for this interpreter).
      peers_cores: the cores of every process of the comparison; () for all.
      peers_batch_sizes, peers_rounds, peers_seconds: the comparison's batch sizes, how often each
        process is started, and how long each of its `repeats` measurements lasts.
    """
    config = ConfigDict()
    config.train = dpsgd.get_config("paper")
    config.train.update(accountant="rdp", published_formula=False)
    config.examples = 13_170
    config.batch_sizes = (32, 128, 512, 2048)
    config.methods = ("none", "vmap", "ghost", "auto")
    config.repeats = 9
    config.part_steps = 100
    config.sweep_batch_size = 30
    config.sweep_cells = (1, 10, 30)
    config.teachers = 50
    config.shadow_models = 16
    config.paper_cells = 10
    config.paper_epochs = 120
    config.memory_batch_size = 4096
    config.bars = 1_000_000
    config.windows = 20_000
    config.settings = 1000
    config.reference_settings = 30
    config.noise_draws = 100_000_000
    config.peers = False
    config.peers_python = ""
    config.peers_cores = ()
    config.peers_batch_sizes = (32, 128, 512)
    config.peers_rounds = 3
    config.peers_seconds = 0.5
    variant_of("configs/bench.py", {"quick": _quick, "peers": _peers}, variant)(config)
    return config
