from socket import socket

__all__ = ["Mux"]

class Mux:
    def __new__(cls, sock: socket) -> Mux: ...
