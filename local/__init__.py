"""Airflow on this machine: `make run` and `make up`, and the generator of events."""
