"""What several rooms need.

differences         where two configs differ
errors              errors that the user can correct, and how tools print them and warnings
figure_file         saves a plot whole or not at all
files               writes files whole or not at all; locks folders; fetches remote files
gathered_metric     metrics whose results travel between processes as messages
json_pieces         reads JSON files, large ones in pieces
markdown            Markdown tables
processes           work in forked processes, which end with the one that started them
rle                 masks as RLE
"""
