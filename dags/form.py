"""The fields of the trigger forms, and the settings that they change."""

import json
import os
from collections.abc import Mapping
from typing import Any

from airflow.sdk import Param

from tasks.settings import Settings, load_settings


def field(title: str, kind: str, description: str, **schema: Any) -> Param:
    """Describe a field of the trigger form that may be left empty."""
    return Param(None, description, title=title, type=["null", kind], **schema)


def filled_in(params: Mapping[str, Param]) -> dict[str, Param]:
    """Fill in the fields that `ELCREC_FORM` names, a JSON object: `make up` says there what it has.

    A scheduled run takes its night from its data interval, whatever is filled in.
    """
    values = json.loads(os.environ.get("ELCREC_FORM", "{}"))
    return {
        name: Param(values[name], param.description, **param.schema) if name in values else param
        for name, param in params.items()
    }


LAKE = {"lake.root": field("Lake", "string", "Write to another lake than `lake.root`.")}


def settings_of(params: Mapping[str, Any]) -> Settings:
    """Load the settings with what the form changes: its fields with a dot that are not empty."""
    return load_settings(
        **{key: value for key, value in params.items() if "." in key and value not in (None, "")}
    )
