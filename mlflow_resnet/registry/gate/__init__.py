"""A registry store for `mlflow server` that lets only proven versions become champion. Nothing here imports torch.

plugin         builds the store; MLflow loads it in every process, so it imports nothing
known_methods  all that MLflow's own stores can do; the gate does not start with one that can do more
locked_store   such a store with one lock that every write takes before it reads, and what its tables say under it
store          the same with the gate before its writes: what each must not do, and how it is refused
policy         the rules, read from YAML and again when the file changes
rule           one of them
server_facts   what the server itself knows of a version and of who asks
decision       all that is known when an alias is to move, and what the version and its measurement miss
"""
