"""A pod that somebody works on: its work tree, its tmux, and when it is over. Standard library only.

idle.py       whether anybody or anything is at work: pure
look.py       what idle.py is told: /proc/net/tcp, nvidia-smi, the panes of tmux
end.py        why a session ends now, and what its people are told before: pure
tree.py       the commit on a branch, in a work tree that attempts share
snapshot.py   that tree as one commit, uncommitted work included, without secrets and without huge files
push.py       that commit to the ledger's repository, never forced
tmux.py       the tmux session `pushtrain`, TensorBoard, nvitop
supervisor.py the loop over all of it; `python -m pushtrain.pod.session`, started by the agent
"""
