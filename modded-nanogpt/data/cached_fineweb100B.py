"""N -> the validation shard and N training shards of the larger sample of FineWeb, of 1,030 in all.

python data/cached_fineweb100B.py 100
"""

from fetch import main

if __name__ == "__main__":
    main("kjj0/fineweb100B-gpt2", "fineweb100B", "fineweb", 1030)
