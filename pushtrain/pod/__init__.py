"""What runs on the pod around the trainer: watchdog, boot, agent. Standard library only, Python 3.10 or newer.

The watchdog and boot travel inside the pod's environment (`infra.start`), the agent comes with the checkout. Nothing
here asks the control plane anything: a pod ends by itself.
"""
