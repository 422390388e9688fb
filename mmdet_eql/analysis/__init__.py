"""What came out of training: figures of a run, tables, plots, pictures.

    run_results            figures and progress of a run, from the logs in its work_dir
    comparison_table       several runs in one table
    frequency_plot         AP over the number of training images
    drawing                predictions beside the ground truth
    figure_file            writing matplotlib figures
    scaled_config          a config with another number of iterations, on another dataset
    minilvis_comparison    all of it, from configs to pictures, resumed where it stopped

Nothing is imported here, so that training does not load matplotlib.
"""
