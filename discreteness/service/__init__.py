"""One job on Ray: leases, trainers, evaluators, the commit of a seed; and the same inline, without Ray."""
