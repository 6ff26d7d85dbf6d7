import os
import socket

server = socket.create_server(("", 8000))
while True:
    client, _ = server.accept()
    client.recv(4096)
    body = os.environ["NAME"] + " has " + open("/stock/items").read().strip()
    client.sendall(f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    client.close()
