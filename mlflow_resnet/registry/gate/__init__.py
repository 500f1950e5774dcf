"""A registry store for `mlflow server` that lets nothing unproven become champion. Nothing here imports torch.

plugin       builds the store; MLflow loads it in every process, so it imports nothing
store        MLflow's own SQL store, with the gate before its writes
transaction  several of its writes at once, with the history
guards       what each write must not do, and how it is refused
policy       the rules, read from YAML
reader       a mapping from YAML with all its mistakes
reloading    the rules as the file has them now
facts        what the server itself knows of a version
decision     rules and facts: what is missing
comparison   whether a candidate is worse than the champion
"""
