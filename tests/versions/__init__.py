"""The same steps with several versions of MLflow, Python and all that the package requires.

steps         what a user does, run by the Python of an environment
environments  which versions, and how an environment of them is made
doors         where runs and models are: a database, a server, imitations of platforms
__main__      prints the tables of docs/versions.md: `python -m tests.versions`
"""
