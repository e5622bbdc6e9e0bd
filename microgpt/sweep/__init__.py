"""Sweeps: many trainings over a space of settings, on every core or a cluster.

`space` has the settings that vary, `trial` trains one point of it, `workers` and `cluster`
run trials in processes here or on machines of Dask, `study` asks Optuna for the next point,
`search` runs the sweep, `results` reads its trials, `scaling` fits losses against sizes.
"""

from __future__ import annotations

from microgpt.sweep.results import Results as Results
