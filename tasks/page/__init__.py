"""The page of intents: an ASGI app that shows what the lake's tables say, for people.

It knows no Airflow. Who may see and name what is decided by the `Access` that the app is given
(`access.py`). No request reads a night's labels as a whole; only a download of users does.
"""
