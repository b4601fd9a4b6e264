"""The sensor that keeps the runs of the nightly DAG in the order of their nights."""

from typing import Any

from airflow.sdk import BaseSensorOperator, Context

from dags.failures import MendFirstError


class InTurn(BaseSensorOperator):
    """Wait until the run before this one, by date, is over.

    Airflow starts ten runs of a backfill at once, unless it is told otherwise.
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(poke_interval=60, mode="reschedule", **more)

    def poke(self, context: Context) -> bool:
        """Tell whether it is over."""
        return is_in_turn(context["ti"], context["dag_run"])


def is_in_turn(ti: Any, dag_run: Any) -> bool:
    """Tell whether a run of this type may begin, by the run before it.

    Raises MendFirstError in a backfill that begins with its last night.
    """
    before = ti.get_previous_dagrun()
    if before is None or before.state not in ("queued", "running"):
        return True
    if before.state == "running":
        return False
    if before.run_type != "backfill":
        return True  # it may be waiting for this one
    if dag_run.run_type == "backfill":
        raise MendFirstError(
            f"the night before, run {before.run_id}, has not begun: nights go on from each other, "
            "create the backfill without --run-backwards"
        )
    return False
