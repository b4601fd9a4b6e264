"""The steps of a night, one module each, and what only they share."""

import logging

# Here, for it has to come before the import: Great Expectations logs two hundred lines of its own
# affairs while it is imported, and a "Binder Error" at each table of DuckDB, though it then reads
# the table in another way. Its warnings and errors stay.
logging.getLogger("great_expectations").setLevel(logging.WARNING)
