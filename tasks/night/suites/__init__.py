"""The suites of Great Expectations: one JSON file each, for the view of `sql/` of the same name.

`severity` "critical" stops the run, "warning" is reported and lets it pass. `description` says
what is expected, `meta.mend` what to do when it is not. A limit written as
`{"$PARAMETER": "name"}` comes from the settings or the night.
"""
