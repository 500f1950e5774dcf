"""Versions in the model registry.

versions   registering a logged model, moving an alias, resolving a model URI
promotion  whether a candidate may take the champion's place
evidence   what a version was measured to be, as text that may be signed
history    who moved an alias, when and why
gate       the store of a server that lets nothing unproven become champion
"""
