"""What a run records.

server   whether the tracking server and the registry answer
run      attaching to a run or starting one, and how it ends
data     labeled directories, checked before training, as dataset inputs
dataset  ImageDirectory as an MLflow dataset input
record   the params, metrics, pictures and model of a training or an evaluation
card     the run's description in Markdown
"""
