"""Versions in the model registry, and which of them is the champion.

versions         registering a logged model, resolving a model URI
abilities        what a server has of MLflow's interface: some lack logged models, aliases or tags of versions
binding          what the server knows of the model that a URI or a folder means
evidence         what a version was measured to be, as a tag of it
validation       records that people or strangers wrote, and their mistakes
promotion        whether a candidate may take the champion's place
aliases          moving an alias, on a server with a gate or without
alias_history    who moved an alias, when, from where and why
history_archive  the older part of it, for which tags have no room
run_texts        texts for which no tag has room
names            how names of models, aliases and tags compare, and the keys of our tags
gate             the store of a server that lets nothing unproven become champion
"""
