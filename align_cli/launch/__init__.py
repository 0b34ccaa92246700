"""Several processes at work on one run: who they are, how they meet, what they do for the one that leads, how they end.

The process of rank 0 leads. It alone plans, writes, holds the lock and talks to the user, and its code is that of a
run with one process. All others follow: they wait for its tasks (train this round, sample these requests, score these
texts), do their part beside it, and end with it. So a run's folder knows nothing of how many there were.

    world       which processes there are: by the recipe, or by torchrun, accelerate launch and Slurm
    meeting     they find each other and are joined by torch's process groups
    causes      what made the first of them fail, which the user is told
    children    followers that align started itself, and watches
    crew        what the leader has of them
    follower    what a process does that follows
    tasks       what it can be told
    engine, scoring     sampling and scoring, shared
    isolated    each stage in a process of its own

accelerate's configurations say how many processes there are and how a model is split; what passes between them is
torch's. transformers and accelerate take each process for the only one, so their trainers work as they always do.
"""
