"""The execution of a task: does the work that the protocol hands out, several pieces at the same time.

    link's inbox ──> session's thread ──> party.receive ──> next_work ──> begin ────────┐
      8 frames          │      ▲                                                        │  at most `depth`
                        │      └── complete, in order <── computing: 2 threads <────────┤  pieces a bin
    link's outbox <─────┘                                  └> curve's pool: `threads`   │
      8 frames                                             matching: 1 thread <─────────┤
                                                           committing: 1 thread <───────┘
                                                           writing one-sided results: 1 thread

The session's thread moves messages and updates the state; it never computes. Meanwhile the link's threads send and
receive, and another thread reads the next task's input. Every queue is bounded: while the outbox is full, no work that
sends a frame is handed out, and a full inbox stops the peer. If several pieces of work fail, the first one is reported.
"""
