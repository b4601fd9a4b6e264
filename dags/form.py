"""The fields of the trigger forms, and the settings that they change."""

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Param

from tasks.settings import Settings, load_settings


def field(title: str, kind: str, description: str, **schema: Any) -> Param:
    """Describe a field of the trigger form that may be left empty."""
    return Param(None, description, title=title, type=["null", kind], **schema)


LAKE = {"lake.root": field("Lake", "string", "Folder of the tables, not the settings' one.")}


def settings_of(params: Mapping[str, Any]) -> Settings:
    """Load the settings with what the form changes: its fields with a dot that are not empty."""
    return load_settings(
        **{key: value for key, value in params.items() if "." in key and value not in (None, "")}
    )
