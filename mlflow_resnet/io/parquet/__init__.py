"""What a Parquet file says it costs: its footer and page headers are looked at before a library reads it.

limits  what is allowed
thrift  how the footer is read
"""
