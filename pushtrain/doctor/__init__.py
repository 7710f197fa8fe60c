"""`pushtrain doctor`: what is missing before the first push, and the command or page that fixes it.

Looks only. The one thing it makes anywhere is a branch in the ledger, which it removes again.
"""
