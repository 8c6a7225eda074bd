"""A libzmq peer for the event plane's tests. Frames are hex texts with spaces between them, one message a line.

sub ENDPOINT TOPIC   prints every message that comes
pub                  binds a port, prints its endpoint, sends each line of standard input as a message
"""

import sys

import zmq

context = zmq.Context()
if sys.argv[1] == "sub":
    socket = context.socket(zmq.SUB)
    socket.setsockopt_string(zmq.SUBSCRIBE, sys.argv[3])
    socket.connect(sys.argv[2])
    while True:
        print(" ".join(frame.hex() for frame in socket.recv_multipart()), flush=True)
else:
    socket = context.socket(zmq.PUB)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    print(f"tcp://127.0.0.1:{port}", flush=True)
    for line in sys.stdin:
        socket.send_multipart([bytes.fromhex(frame) for frame in line.split()])
