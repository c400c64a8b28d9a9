"""What people run as `tidegate ...`: in an API pod of an installation, whose variables say where, or beside the local run.

A module is a command of that name with its options, or what these mean; `options.py` holds what several share, `local.py` the commands
of the local run. They import the capability rooms, settings and the local run; `cli.py` gathers them.
"""
