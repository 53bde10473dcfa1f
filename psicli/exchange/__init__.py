"""What a bin's computing takes: carry out the work that the protocol hands out, several pieces at a time.

    link's inbox ──> session's thread ──> party.receive ──> next_work ──> begin ────────┐
      8 frames          │      ▲                                                        │  at most `depth`
                        │      └── complete, in order <── computing: 2 threads <────────┤  pieces a bin
    link's outbox <─────┘                                  └> curve's pool: `threads`   │
      8 frames                                             matching: 1 thread <─────────┤
                                                           committing: 1 thread <───────┘
                                                           writing one-sided results: 1 thread

The session's thread moves messages and keeps the books; it never computes. The link's own threads send and receive
beside it, another thread reads the next task's input. Every queue is bounded: a full outbox stops the handing out of
work that sends, a full inbox stops the peer. The first failure in the order of the work is the one that is told.
"""
