"""A first come, first served queue of c servers by Ciw, to hold the limited lane against."""

import ciw
import numpy as np


def service_ends(arrivals: list[float], services: list[float], workers: int) -> list[float]:
    """When the services end (s), sorted: customers arrive at `arrivals`, in order, each needing `services`.

    Ciw adds up the times between arrivals: exact where these sums are, to rounding elsewhere. It divides by
    the time that all takes, so some of it must be above zero.
    """
    gaps = np.diff(arrivals, prepend=0.0).tolist()
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Sequential([*gaps, float("inf")])],
        service_distributions=[ciw.dists.Sequential(services)],
        number_of_servers=[workers],
    )
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_customers(len(arrivals), method="Finish")
    return sorted(record.service_end_date for record in simulation.get_all_records())
