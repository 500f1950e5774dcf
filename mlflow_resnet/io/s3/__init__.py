"""Images in S3 and compatible stores.

access    how it is reached, and what its errors mean to a person
listing   s3://bucket/prefix, checked; which objects there are, and which names are refused
transfer  objects to a cache on this machine, each moved once
upload    files to objects, and folders to prefixes that are known to be whole
"""
