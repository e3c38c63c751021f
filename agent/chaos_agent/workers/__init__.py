"""Programs of ours that use the network, each a process without privileges, under a lease.

The keeper has no network and its holders have none either, since they are in its cgroup
(``IPAddressDeny=any``). So systemd starts these, each as a transient service; where there
is no systemd, and so no such cgroup, the keeper starts them itself. A program is a module
here with ``async def serve(arguments, tell)``, which tells what is still missing, and
nothing (an empty text) when it does its work.
"""
