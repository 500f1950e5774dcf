"""Users who call everything at once, and a judge who knows what each of them did.

program  rounds of steps that are played at the same time, as values that can be drawn, shrunk, printed and kept
actions  what a step can do: every route that changes models, versions, aliases, tags, runs, logged models, artifacts
world    one program's models, what its users truly did, and what the database and the server say of them
rules    the policy, as the server gets it and as the judge reads it
judge    whether what is there may be so; uses nothing of the gate's own decision
people   loaded by the server: who sends a request, and at which of its SQL statements it waits
found    programs that found a hole once, and are tests since
"""
