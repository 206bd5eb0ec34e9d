"""`python -m services.inference.replica`: one replica, as a job of the scheduler."""

from services.inference.replica.app import main

main()
