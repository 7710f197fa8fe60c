"""A GPU cloud and a model Hub on one loopback port: pods are local processes, volumes are folders, money is a clock."""
