"""Run one party with another PSI library; peers.py starts this with an interpreter that has the library."""

from __future__ import annotations

import csv
import importlib.util
import socket
import sys
import time
import types
from contextlib import suppress
from io import BufferedRWPair
from pathlib import Path

RECEIVER, SENDER = "alice", "bob"


def main() -> None:
    library, folder, rows, timeout, party, own, peer = sys.argv[1:]
    try:
        if library == "openmined":
            run_openmined(party, Path(folder), own, peer, int(rows))
        else:
            run_spu(library, party, Path(folder), own, peer, int(timeout))
    except Exception as error:
        cause = str(error).partition("\n")[0]
        sys.exit(f"ERROR {type(error).__name__}: {cause}")


def run_spu(library: str, party: str, folder: Path, own: str, peer: str, timeout: int) -> None:
    """Run SPU's psi_execute with as little work as possible: unique keys, no sorting, no checkpoints, one receiver."""
    psi, link = import_spu()
    protocol, _, curve = library.partition(":")
    desc = link.Desc()
    desc.id = "bench"
    for name in (RECEIVER, SENDER):
        desc.add_party(name, own if name == party else peer)
    # The other party sends nothing while it computes, and the defaults give up after 20 and 30 s.
    desc.recv_timeout_ms = desc.http_timeout_ms = timeout * 1000
    desc.connect_retry_times, desc.connect_retry_interval_ms = 600, 100
    context = link.create_brpc(desc, (RECEIVER, SENDER).index(party))
    config = psi.PsiExecuteConfig(
        protocol_conf=psi.PsiProtocolConfig(
            protocol=psi.parse_protocol(protocol),
            receiver_rank=0,
            broadcast_result=False,
            ecdh_params=psi.EcdhParams(curve=psi.parse_curve_type(curve)),
        ),
        input_params=psi.InputParams(path=str(folder / f"{party}.csv"), selected_keys=["id"], keys_unique=True),
        output_params=psi.OutputParams(path=str(folder / f"{party}-out.csv"), disable_alignment=True),
    )
    psi.psi_execute(config, context)
    context.stop_link()


def import_spu():  # type: ignore[no-untyped-def]
    """Import SPU's psi and link without the package's __init__, which takes 0.6 s and 100 MB to load jax."""
    spec = importlib.util.find_spec("spu")
    if spec is None:
        raise ModuleNotFoundError("No module named 'spu'")
    bare = types.ModuleType("spu")
    bare.__path__ = list(spec.submodule_search_locations or ())
    sys.modules["spu"] = bare
    from spu import psi
    from spu.libspu import link

    return psi, link


def run_openmined(party: str, folder: Path, own: str, peer: str, rows: int) -> None:
    """Run OpenMined's client (the receiver) or server over one connection, with a length before each message."""
    import private_set_intersection.python as openmined

    with open(folder / f"{party}.csv", newline="") as file:
        header, *table = csv.reader(file)
    keys = [row[0] for row in table]
    if party == SENDER:
        server = openmined.server.CreateWithNewKey(True)
        with socket.create_server(address(own)) as listener, listener.accept()[0].makefile("rwb") as stream:
            # RAW is exact; the false-positive rate concerns the other structures. The client masks at the same time.
            setup = server.CreateSetupMessage(1e-9, rows, keys, openmined.DataStructure.RAW)
            request = openmined.Request.FromString(receive(stream))
            send(stream, setup.SerializeToString())
            send(stream, server.ProcessRequest(request).SerializeToString())
        return
    client = openmined.client.CreateWithNewKey(True)
    with dialled(peer).makefile("rwb") as stream:
        send(stream, client.CreateRequest(keys).SerializeToString())
        setup = openmined.ServerSetup.FromString(receive(stream))
        response = openmined.Response.FromString(receive(stream))
    matched = client.GetIntersection(setup, response)
    with open(folder / f"{party}-out.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(table[index] for index in matched)


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def dialled(text: str) -> socket.socket:
    """Connect to the peer, as soon as it listens."""
    while True:
        with suppress(ConnectionRefusedError):
            return socket.create_connection(address(text))
        time.sleep(0.02)


def send(stream: BufferedRWPair, message: bytes) -> None:
    stream.write(len(message).to_bytes(8, "big") + message)
    stream.flush()


def receive(stream: BufferedRWPair) -> bytes:
    return stream.read(int.from_bytes(stream.read(8), "big"))


if __name__ == "__main__":
    main()
