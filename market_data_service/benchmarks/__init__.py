"""Speed and memory of the service, each figure beside a reference of the same run, each answer checked: scripts/bench.py.

A module holds one benchmark: `rows(stage)` measures on the servers of the stage and returns the rows of the table. Of the
service itself nothing is changed; its programs run as processes, with the settings they have by default.
"""
