"""N -> the validation shard and N training shards of FineWeb-Edu, which is FineWeb's educational part, of 103 in all.

python data/cached_finewebedu10B.py 9
"""

from fetch import main

if __name__ == "__main__":
    main("kjj0/finewebedu10B-gpt2", "finewebedu10B", "finewebedu", 103)
