"""`python -m bench.network.inside`: measures the network's goals in this kernel; prints JSON.

A process of its own, in network namespaces of its own, with the tests' directory in PYTHONPATH: so
it runs on the machine at hand and in the test VM alike. Prints a `NetworkRun`.
"""

import os
import sys
import tempfile
from pathlib import Path

import msgspec
from network.namespaces import private_network

from bench.network.facts import NetworkRun
from bench.network.flow import measure_flow
from bench.network.ports import measure_ports
from bench.network.stop import measure_stops
from bench.network.ways import measure_ways
from qemu_node.errors import NodeError


def main() -> None:
    """Measure one after the other and print what was found."""
    with private_network():
        ports = measure_ports()
    with private_network(), tempfile.TemporaryDirectory(prefix="qn-bench-") as directory:
        tcp_mbit, udp_packets = measure_flow(Path(directory))
    with private_network(), tempfile.TemporaryDirectory(prefix="qn-bench-") as directory:
        ways = measure_ways(Path(directory))
    with private_network():
        stops = measure_stops()
    run = NetworkRun(
        kernel=os.uname().release,
        ports=ports,
        stops=stops,
        tcp_mbit=tcp_mbit,
        udp_packets=udp_packets,
        ways=ways,
    )
    print(msgspec.json.encode(run).decode())


if __name__ == "__main__":
    try:
        main()
    except (NodeError, OSError) as exc:
        sys.exit(str(exc))
