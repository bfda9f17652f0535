"""Steps on a cluster: one engine that runs any job-like custom resource to its end, and an adapter per resource.

    settings.py      what an installation fixes: namespace, accounts, images, secrets, pods, clocks
    credentials.py   where the API server is, and who we are to it
    api.py           raw JSON over the Kubernetes client: retries, watches, rotated tokens
    names.py         names, labels and spec hashes that survive retries of the task's pod
    jobs.py          what an adapter tells the engine: Job, Observation, Phase
    causes.py        why a job failed, read from what is left of it; cause_kinds.py: the kinds, and which may be tried again
    clocks.py        queue, start and run time, each counted only while it applies
    logs.py          every line of every container once, in the task's log; log_position.py: how far one is written
    evidence.py      pods, those that have just gone included, and events
    ensure.py        a job exists exactly once: strict create, adoption, refusal
    launches.py      launches of one job: which is the last, and that no two work at once
    attempts.py      requests and outcomes in the store, an attempt for each launch, and the count of launches
    sharing.py       several runs with one step key do the work once
    ended.py         what goes into the engine besides a job, and what comes out
    engine.py        ensure → watch → collect → clean, with relaunches and cancelling
    reaping.py       deletion by label: the exit handler's part, and orphans
    surroundings.py  the run and the Workflow that this pod belongs to
    launching.py     what launch() calls for a step of runtime `spark` or `torch`

    promotion.py     a released model takes over the stable name, or what was there serves again
    promotion_records.py, replacing.py, readiness.py    what a promotion replaced; putting one spec for another; waiting for it

    pods.py pytorchjob.py sparkapplication.py torchx_scheduler.py inferenceservice.py    the resources themselves

Importing this package loads none of it: settings are read on laptops that have no Kubernetes client.
"""
