"""A registry store for `mlflow server` that lets only proven versions become champion. Nothing here imports torch.

plugin         builds the store; MLflow loads it in every process, so it imports nothing
known_methods  all that MLflow's own stores can do; the gate does not start with one that can do more
store          such a store with the gate before its writes
transaction    the one lock that every write takes before it reads
registry_rows  what the tables say under the lock
guards         what each write must not do, and how it is refused
policy         the rules, read from YAML and again when the file changes
rule           one of them
server_facts   what the server itself knows of a version and of who asks
situation      all that is known when an alias is to move
decision       rules and situation: what is missing
measurement    one measurement: whether it is true, fresh and good enough, and no worse than the champion's
"""
