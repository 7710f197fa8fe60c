"""Onto the pod of a run by ssh: where it is, whose host key it has, which key of ours it takes, what goes over it."""
