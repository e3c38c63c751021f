"""The controller on real sockets: its own gRPC servers, mutual TLS, scripted agents."""
