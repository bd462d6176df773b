"""A step of Opacus with per-example gradients from hooks, or with ghost clipping.

The batch is sampled from tensors in memory: Opacus' own data loader, which collects examples one by
one, would add to every step.
"""

import opacus
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from launch.peers import protocol


def network() -> nn.Sequential:
    """Makes the network `paper_dpsgd`; the padding is that of "SAME" in JAX."""
    return nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(4, 16, 2),
        nn.ReLU(),
        nn.Conv2d(16, 16, 2, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(400, 256),
        nn.ReLU(),
        nn.Linear(256, protocol.CLASSES),
    )


def main() -> None:
    """Times the step that the command line asks for."""
    task = protocol.task()
    made = protocol.made_up(task.examples)
    images = torch.from_numpy(made[0]).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(made[1]).long()
    model = network()
    parameters = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), task.learning_rate, momentum=task.momentum)
    # Its length is how the engine knows the sample rate; no batch is taken from it.
    loader = DataLoader(TensorDataset(images, labels), batch_size=task.batch_size)
    private = opacus.PrivacyEngine().make_private(
        module=model,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        data_loader=loader,
        noise_multiplier=task.noise_multiplier,
        max_grad_norm=task.clip_norm,
        poisson_sampling=False,
        grad_sample_mode=task.method,
    )
    model, optimizer = private[:2]
    criterion = private[2] if task.method == "ghost" else nn.CrossEntropyLoss()
    sample_rate = task.batch_size / task.examples

    def step() -> None:
        rows = torch.nonzero(torch.rand(task.examples) < sample_rate).squeeze(1)
        optimizer.zero_grad()
        criterion(model(images[rows]), labels[rows]).backward()
        optimizer.step()

    versions = {"opacus": opacus.__version__, "torch": torch.__version__}
    protocol.answer(task, step, 1, parameters, versions)


if __name__ == "__main__":
    main()
