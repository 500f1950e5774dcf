"""`mlflow-resnet serve`: a scoring server of one registered version, which each answer names.

connections  how many, how long each may take to ask, which heads of requests are clear
version      a version, verified, loaded and tried, if it fits into this machine
current      which version answers now, and the thread that follows the alias
app          what is asked at which path; names the version in every answer, `/model`
intake       what is taken in at all: whole bodies, in time, of bounded sizes, so many at once
protocols    what clients may send, and how it is answered
answers      parses what was taken in, predicts, and writes the answer
shadowing    a challenger that is asked too, in the background
monitoring   what Prometheus reads
page         the page at `/`
openapi      the description at `/openapi.json`

Sockets and processes are in `mlflow_resnet.verbs.serve`. A request takes the current version once and stays with it.
What a model does for requests wherever it is served is in `mlflow_resnet.scoring`: it merges them, and refuses those
that cannot be answered in time.
"""
