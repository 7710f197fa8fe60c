"""What is said on GitHub: the plan in a pull request, the run after the merge, commit statuses, and who approved."""
