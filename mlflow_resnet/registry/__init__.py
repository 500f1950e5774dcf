"""Versions in the model registry, and which of them is the champion.

versions       registering a logged model, resolving a model URI
binding        what the server knows of the model that a URI or a folder means
evidence       what a version was measured to be, as a tag of it
validation     records that people or strangers wrote, and their mistakes
promotion      whether a candidate may take the champion's place
aliases        moving an alias, on a server with a gate or without; how names of models and aliases compare
alias_history  who moved an alias, when, from where and why
gate           the store of a server that lets nothing unproven become champion
"""
