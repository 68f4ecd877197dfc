"""A folder whose name means something to somebody: the recipes of the pages are run there too.

Partitions of Hive, parts of a URI, patterns of a shell, quotes of SQL, hidden files; SIBLING matches it as a pattern.
"""

ODD = "seed=7/step=1/doc_id=9/_é #1?%20&[a]*'.b/.hidden"
SIBLING = "seed=7/step=1/doc_id=9/_é #1x%20&a and so on'.b/.hidden"
