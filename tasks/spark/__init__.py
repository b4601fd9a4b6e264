"""Steps of a night that Spark computes on many machines, for lakes that outgrow one.

A step of `tasks.night` calls these modules when `engine.kind` is "spark"; nothing else does, so
pyspark is imported then alone.
"""
