"""One machine's stack: the supervisor behind `aios up`, and what starts, asks and stops it from outside.

Owns `$AIOS_HOME`: its secrets, its ports, its logs and the processes that run in it. It starts the very commands that
compose runs, and imports none of them: to it a service is a command, a probe and what must be ready before.

    layout.py      where things lie under the home
    ports.py       which port each listener gets
    secrets.py     keys, credentials and tokens, made once, renewed in time
    services.py    the table of processes
    probes.py      how each is asked whether it answers
    child.py       one process: started, watched, started again
    supervisor.py  all of them: order, state file, shutdown
    control.py     up, down and status, from another process
    doctor.py      what the machine lacks, and the fix
"""
