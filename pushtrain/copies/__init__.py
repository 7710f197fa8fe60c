"""Copies of checkpoints, as far as the control plane has to do with them; the trainer writes and reads them.

bucket.py     where `publish.checkpoints` leads, and its keys
leftover.py   what runs that are over left behind
"""
