"""a machine's label -> its object store filled with objects that cannot be spilled, until a line comes in."""

import sys

import numpy as np
import ray

PIECE_BYTES = 8_000_000


@ray.remote(num_cpus=0)
class Filler:
    """Holds objects and a view of each, which keeps Ray from moving them to disk."""

    def fill(self, num_bytes):
        references = [ray.put(np.full(PIECE_BYTES, i % 256, np.uint8)) for i in range(num_bytes // PIECE_BYTES)]
        self.held = references, ray.get(references)
        return len(references)


def main():
    ray.init(log_to_driver=False)
    store = ray.nodes()
    node = next(node for node in store if node["Labels"].get("machine") == sys.argv[1])
    filler = Filler.options(label_selector={"machine": sys.argv[1]}).remote()
    pieces = ray.get(filler.fill.remote(int(node["Resources"]["object_store_memory"])))
    print(f"full with {pieces} pieces", flush=True)
    sys.stdin.readline()
    ray.shutdown()


if __name__ == "__main__":
    main()
