//! A small HTTPS server for the client's tests: real TLS with a device's own configuration, a router written by the test.
