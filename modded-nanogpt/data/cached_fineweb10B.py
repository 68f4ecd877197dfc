"""N -> the validation shard and N training shards of FineWeb, 10^8 GPT-2 tokens each, of 103 in all.

python data/cached_fineweb10B.py 9     the small track's nine
"""

from fetch import main

if __name__ == "__main__":
    main("kjj0/fineweb10B-gpt2", "fineweb10B", "fineweb", 103)
