"""`mlflow-resnet serve`: MLflow's scoring server, of one registered version that each answer names.

connections  how many, how long each may take to ask, which heads of requests are clear
version      a version, verified, loaded and tried, if it fits into this machine
current      which version answers now, and the thread that follows the alias
app          the application around it: names the version in every answer, `/model`
intake       what is taken in at all: whole bodies, in time, of bounded sizes, so many at once

Sockets and processes are in `mlflow_resnet.verbs.serve`. A request takes the current version once and stays with it.
What a model does for requests wherever it is served is in `mlflow_resnet.scoring`: it merges them, and refuses those
that cannot be answered in time.
"""
