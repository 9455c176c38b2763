"""One file or folder per transport, found by its name; none imports another.

`devices/transports/<name>` holds `TRANSPORT`, an object of `devices.discovery.Transport`, and
imports no SDK when it is itself imported.
"""
