"""The steps of a night, one module each: plain functions of (settings, night)."""

import os

# The threads of a training wait for each other many times a step. GNU's OpenMP, which PyTorch has,
# lets them wait for long at full speed, on cores that other processes need: on a busy machine a
# step then takes two to eight times as long. This is read when PyTorch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
