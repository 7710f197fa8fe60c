"""`task: command`: a program of the commit in place of a training, with the same log, limits, attempts and result.

run.py is one attempt from top to bottom; environment.py what the program gets, process.py its start and its end,
output.py its lines, progress.py the steps in them, artifacts.py the files that are kept. Needs no torch: on a pod only
the light part of the locked environment is installed for it.
"""
