"""Attacks on trained models, and what their success proves."""
