"""What align needs and whether it is there: versions, devices, threads, memory, disks, the Hub, a recipe's servers.

finding     what was found of one thing
packages    Python and the installed versions, beside those that are asked for and those that were tested
machine     devices, threads, memory, disks
needs       what a recipe names: its own faults, models, servers
Nothing is downloaded, no weights are loaded, and nothing is asked but the servers that a recipe names.
"""
