"""Long runs: whole checkpoints, interruptions, and resuming bit for bit.

checkpoint_hook         writes checkpoints whole or not at all, before and after each validation
interruption_hook       saves on SIGTERM and SIGUSR1, and exits with status 75
resume_randomness_hook  the images and random numbers of a resumed run
"""
