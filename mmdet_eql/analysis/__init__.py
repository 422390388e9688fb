"""Looking into data and runs.

    class_frequency_report    how often each category of an annotation file occurs
    gradient_plot             positive and negative gradients of each category
    drawing                   detections in images, beside the annotations
    category_errors           the errors of one category in a results file
    error_page                these errors as an HTML page
    image_intervals           gains of runs with intervals over the validation images
    study_report              the tables of a study, with pages and pictures
    data_check                all that can be wrong with a data set, images included

Nothing is imported here, so that training does not load matplotlib.
"""
