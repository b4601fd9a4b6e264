"""The steps of a night, one module each: plain functions of (settings, night)."""
