"""Many trainings and their comparison: one pipeline for sweeps, studies and the quickstart.

sweep_file      what a sweep file or the command line asks for: one entry per run
study_file      what makes a sweep file a study: data, first stage, tables
planning        entries to runs: merged configs, identities, names; what is invalid
sweep           a sweep from its entries to the last run
execution       trainings as processes: order, GPUs, resuming, stopping
progress        live view on the terminal
slurm           the same runs as Slurm jobs
run_logs        metrics of a run from mmengine's logs in its work_dir
records         result.json: what is kept of a run
groups          runs grouped by experiment, one run per seed; bins by training images
statistics      mean, standard deviation and significance tests of groups
tables          groups as Markdown and CSV
plots           groups as plots: metrics, categories over frequency, learning curves
page            tables and plots as one HTML page
"""
