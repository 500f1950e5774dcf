"""The same steps with several versions of MLflow, Python and all that the package requires.

steps         what a user does, run by the Python of an environment
environments  which versions, and how an environment of them is made
__main__      prints the table of docs/versions.md: `python -m tests.versions`
"""
