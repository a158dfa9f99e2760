"""transfer.py HOST PORT FILE: sends the first 8 MB of a file over TCP while it receives as much, and prints what came and went."""

import hashlib
import socket
import sys
import threading

LENGTH = 8_000_000

host, port, path = sys.argv[1:]
with open(path, "rb") as file:
    sent = file.read(LENGTH)
assert len(sent) == LENGTH, f"{path} is too short"

with socket.create_connection((host, int(port)), timeout=60) as peer:
    sender = threading.Thread(target=peer.sendall, args=(sent,))
    sender.start()
    received = bytearray()
    while len(received) < LENGTH and (part := peer.recv(65536)):
        received += part
    sender.join()
    peer.shutdown(socket.SHUT_WR)
    assert peer.recv(1) == b"", "more came than was sent"

print(f"received {hashlib.sha256(received).hexdigest()}")
print(f"sent {hashlib.sha256(sent).hexdigest()}")
