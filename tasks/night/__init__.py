"""The steps of a night, one module each, and what only they share."""
