"""Untrusted text: made printable, never interpreted. Nothing here needs another package of ours.

characters    for terminals, logs and messages: control characters become visible, secrets are left out
credentials   URIs without user names, passwords, signatures and tokens
places        what is a path, what is in S3, and what is nowhere
templates     Markdown for descriptions that MLflow shows, HTML for reports
rows          lines and rows of files, of bounded length
spreadsheets  for CSV files, which spreadsheets take formulas from
"""
