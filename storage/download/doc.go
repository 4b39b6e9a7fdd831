// Package download runs at most one download per digest and namespace, with many readers.
//
// A [Group] holds the running downloads. [Group.Open] searches the store without
// a lock; if the content is missing, it joins the download of that digest or
// starts one. A [Download] owns its goroutine and a context that no client can
// end: a client that leaves never stops a download that other clients, or the
// cache, want. The bytes go through the hash into a [spool.Spool], which any
// number of readers follow, each a [Reader]. The store gets the content once its
// digest is verified, and only then does the download leave the group: every
// lookup finds either the download or the stored content, unless that is removed
// from the cache ([Group.Forget]).
//
// # Phases
//
// A download is in one phase at a time:
//
//	searching ───────────────► ended    The store has the content by now.
//	    │ missing
//	    ▼
//	 waiting ◄──── paused               Waits for one of Options.MaxFetches slots.
//	    │ slot       ▲
//	    ▼            │ no holder for unattendedGrace
//	 copying ────────┘                 Back to waiting if it yields its slot.
//	    │ digest verified
//	    ▼
//	committing ──────────────► ended    Stored, unless the store failed or the content is forgotten.
//
// Each phase but committing ends early when the source or the store fails, or
// when [Download.Abandon] gives up a download without holders. A source that
// delivered other bytes sends the download from copying back to waiting, if no
// reader has seen a byte and another upstream may have the right ones. [Group.Forget] changes no
// phase: it decides, before committing, that nothing is stored.
//
// # Parts
//
// The bytes of a blob need not come in order. A range of a reader far ahead of the
// watermark is a part, with a stream of its own:
//
//	0 ............ watermark ......... from ========> .... to ............. size
//	 hashed, readable   the download's stream    a part, read by its client alone
//
//	wanted ──► active ──► ended     Wanted parts wait for a place. The download skips
//	    │                           active ones, and what they brought.
//	    └──────────────────►        The download has come near meanwhile.
//
// Parts never fail the download: it fetches what they leave. They end before it does.
//
// Segments are parts that the download demands by itself, to have several streams bring
// a large blob. See team.
//
// # Sources and proofs
//
// A [Source] is two things. Open delivers bytes, from wherever they may come: the
// repository's own upstream or, in front of it, an [Origin]: an object store, other replicas.
// The digest vouches for bytes, never for rights. Verified therefore learns
// whether the delivery also proves that the repository possesses the content,
// which only a stream of the repository's own upstream does ([Stream.Proves]).
//
// # Locks
//
// They are taken in this order, the later while holding the earlier, never the
// other way round:
//
//	Group.mu > Download.mu > Spool.mu > spool.Dir.mu
//	           Download.mu > the mutex of package evict
//
// Group.mu is shared by all digests: no I/O, no callback, no tracing and no log
// line under it. Download.mu belongs to one digest.
package download
