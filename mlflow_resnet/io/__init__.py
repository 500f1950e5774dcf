"""Plumbing that knows no images and no models: files, threads, S3, text from outside.

It imports `errors`, and nothing else of ours.

atomic        files and directories that appear whole or not at all
destinations  the same where the output is in S3
owned         folders of this user, and locks on them
own_folders   what mlflow_resnet and MLflow write, which is never a class or an image; the cache of this user
notes         a small JSON file that survives being killed
file_names    names from outside, before they become paths
untrusted     JSON from outside
parquet       what a Parquet file costs, before it is read
text          text from outside: shown, never obeyed
s3            objects, prefixes, transfers
parallel      an ordered map over threads
memory        how much memory is available, and what may be used of it at once
process       whether this process is ours
reasons       errors of the system in words
console       lines for people on stderr
"""
