"""Launchers: one job each, `python -m launch.<job> --config=configs/<job>.py --workdir=...`."""
