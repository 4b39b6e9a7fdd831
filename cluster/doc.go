// Package cluster makes several mirrors act as one: Redis says which replica downloads, and
// the others read from it.
//
// A [Cluster] is the membership of one replica. It has three sides:
//
//   - [Cluster.Open] is a source of downloads (origin.go). It reads from a replica that has
//     a blob, or follows the one that downloads it, or says that it is the turn of this
//     replica to ask the upstreams ([ErrTurn]). For the time of that turn the replica has a
//     lease in Redis (lease.go).
//   - [Cluster.Server] serves other replicas (handler.go) from [Contents].
//   - [Cluster.Ask] shares answers of upstreams that are not content, such as checks of tags
//     (answers.go).
//
// Content is addressed by digest and verified by its reader. Redis and other replicas
// therefore decide about work only. Whatever they lose or forge, no wrong byte follows.
//
// # A lease
//
//	        Take, or Replace after its holder failed
//	free ────────────────────────────────────────────► held ──► renewed each third of its life
//	  ▲                                                 │ │
//	  ├──── the download ended, paused or yielded ──────┘ │ another replica replaced it,
//	  │                                                   │ or Redis lost it
//	  └──── its life is over: the holder died             ▼
//	                                                     lost: the download goes on alone
//
// # Redis away
//
// All calls pass a gate (gate.go). After a failed one it lets no call through until the
// heartbeat of the replica (presence.go) has succeeded again. So one download waits for a
// Redis that hangs, for [callTimeout], and the others go on alone at once.
//
// # Hostile replicas
//
// Every answer of another replica is bounded in bytes and time before it is believed, and a
// replica that fails is shunned for a while (peers.go). Every value in Redis is bounded, and
// believed with a valid seal only.
package cluster
