"""Fault schedules under virtual time: the real control plane and the simulator's cloud, thousands of times over.

`python -m faults` (with tests/ on the path; `make faults`) runs schedules by seed and says what broke which promise.
"""
