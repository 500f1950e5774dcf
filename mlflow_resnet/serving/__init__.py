"""`mlflow-resnet serve`: MLflow's scoring server, of one registered version that each answer names.

version   a version, verified, loaded and tried, as an application
current   which version answers now, and the thread that follows the alias
refusals  MLflow's refusals without stack traces and without the input
app       the application around it: names the version in every answer, `/model`
server    sockets and processes

A request takes the current version once and stays with it, so admission control belongs into `app`, before that, and
the merging of requests into `version`, between MLflow's application and the model.
"""
