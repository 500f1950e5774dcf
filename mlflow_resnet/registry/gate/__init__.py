"""A registry store for `mlflow server` that lets only proven versions become champion. Nothing here imports torch.

plugin            builds the store; MLflow loads it in every process, so it imports nothing
store             MLflow's own SQL stores with the gate before their writes
known_methods     all that those stores can do; the gate does not start with one that can do more
guarded_models    names, tags and the end of registered models
guarded_versions  what may be written on versions, and when they may go
guarded_aliases   who may move an alias, and the history
transaction       the one lock that every write takes before it reads
registry_rows     what the tables say under the lock
guards            what each write must not do, and how it is refused
policy            the rules, read from YAML
rule              one of them
mistakes          rules that check nothing or can never be met
reader            a mapping from YAML with all its mistakes
reloading         the rules as the file has them now
server_facts      what the server itself knows of a version and of who asks
situation         all that is known when an alias is to move
decision          rules and situation: what is missing
measurement       one measurement: whether it is true, fresh and good enough
comparison        whether a candidate is worse than the champion
"""
