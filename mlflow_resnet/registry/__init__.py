"""Versions in the model registry.

versions   registering a logged model, moving an alias, resolving a model URI
promotion  whether a candidate may take the champion's place
"""
