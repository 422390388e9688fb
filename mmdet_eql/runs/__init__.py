"""Many trainings from one file: planned, run, stopped, gone on with, and recorded.

sweep_file      what a sweep file or the command line asks for: one entry per run
planning        entries to runs: merged configs, identities, names; what is broken
config_check    whether the parts of a config can be built, before anything runs
processes       one training as a process: its log, progress and end
scheduler       runs in their order, several at once
display         their progress on the terminal
run_record      what is left of a run, in a few KB: result.json
slurm           the same runs as job scripts
"""
