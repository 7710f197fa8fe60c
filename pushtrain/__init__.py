"""The contract and the control plane: job spec, run, ledger, reconcile, command line."""

__version__ = "0.1.0"
