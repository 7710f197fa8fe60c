"""What a run does this moment: its log as it comes, its terminal, the figures of every pod.

once.py     two ways of one log as one, no line twice: pure
logs.py     `logs -f`: the ledger, and quicker the cloud's stream
attach.py   `attach`: the tmux of a session, the output of anything else
rows.py     a row for each pod: pure
top.py      `top`: those rows, again and again
"""
