"""What `owl2 fit`, `owl2 inspect` and `owl2 bench` measure: compiled programs, memory, time.

Knows all that runs, no test and no benchmark; nothing that runs knows it.
"""
