"""The pure domain: ceilings, leases, runs and faults as values. No I/O, no clock, no Linux."""
