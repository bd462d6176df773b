"""Private aggregation of teacher ensembles: noisy votes, what they cost, what may be published."""

from dpfinjax.pate.aggregation import confident, noisy_argmax, votes
from dpfinjax.pate.analysis import (
    calibrate,
    calibrate_confident,
    confident_epsilon,
    confident_epsilon_curve,
    confident_rdp,
    epsilon,
    epsilon_curve,
    rdp,
)
from dpfinjax.pate.smooth import Release, release, release_rdp, smooth_sensitivity

__all__ = [
    "Release",
    "calibrate",
    "calibrate_confident",
    "confident",
    "confident_epsilon",
    "confident_epsilon_curve",
    "confident_rdp",
    "epsilon",
    "epsilon_curve",
    "noisy_argmax",
    "rdp",
    "release",
    "release_rdp",
    "smooth_sensitivity",
    "votes",
]
