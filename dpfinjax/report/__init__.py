"""The report of a study: what was found, as one page and as tables."""

from dpfinjax.report.exports import write_csv, write_tex
from dpfinjax.report.page import write_html
from dpfinjax.report.recommendation import Recommendation, recommend
from dpfinjax.report.record import FAMILIES, Attack, Audit, Model, Study

__all__ = [
    "FAMILIES",
    "Attack",
    "Audit",
    "Model",
    "Recommendation",
    "Study",
    "recommend",
    "write_csv",
    "write_html",
    "write_tex",
]
